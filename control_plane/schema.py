"""All tables, for migrations: importing this module fills ``METADATA``."""

from control_plane.agents.tables import Agent, AgentVersion
from control_plane.batches.tables import Batch, BatchLine
from control_plane.budgets.tables import BudgetAlert, BudgetRow
from control_plane.credentials.tables import CredentialRow, DataKey
from control_plane.database import Base
from control_plane.files.tables import File
from control_plane.keys.tables import ApiKey
from control_plane.knowledge.tables import Document, Ingestion, KnowledgeBase
from control_plane.privacy.tables import KeptPrompt, PrivacyPolicy
from control_plane.responses.tables import Conversation, Item, StoredResponse
from control_plane.tenants.tables import Organisation, Project, User
from control_plane.usage.tables import UsageDay, UsageRow, UsageUpstreamDay

TABLES = (
    Organisation,
    Project,
    User,
    ApiKey,
    KnowledgeBase,
    Document,
    Ingestion,
    Agent,
    AgentVersion,
    UsageRow,
    UsageDay,
    UsageUpstreamDay,
    Conversation,
    StoredResponse,
    Item,
    File,
    Batch,
    BatchLine,
    BudgetRow,
    BudgetAlert,
    DataKey,
    CredentialRow,
    PrivacyPolicy,
    KeptPrompt,
)
METADATA = Base.metadata

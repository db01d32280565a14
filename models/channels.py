"""What crosses a process boundary by name: headers, internal paths, Redis keys. Defined here, spelled nowhere else."""

CLUSTER_SECRET_HEADER = "x-objecta-cluster-secret"
PRINCIPAL_HEADER = "x-objecta-principal"
REQUEST_ID_HEADER = "x-request-id"
# Marks a call made by the platform on a caller's behalf; it names the caller's request.
PARENT_REQUEST_HEADER = "x-objecta-parent-request"
# ``batch``: a call that waits for all others. Counts, like the two above, only beside the secret.
CLASS_HEADER = "x-objecta-class"
BATCH_CLASS = "batch"
# An organisation's own key for a provider, from the gateway to that provider's adapter, beside the cluster secret.
UPSTREAM_KEY_HEADER = "x-objecta-upstream-key"

ENGINE_PREFIX = "/internal/engines"
EMBEDDER_PREFIX = "/internal/embedders"
RERANKER_PREFIX = "/internal/rerankers"
RETRIEVAL_PREFIX = "/internal/retrieval"
AGENTS_PREFIX = "/internal/agents"
HOSTED_PREFIX = "/internal/hosted"

USAGE_STREAM = "objecta:usage"
"""Redis stream; each entry has one field, ``event``: a UsageEvent as JSON."""

USAGE_GROUP = "ledger"
"""The consumer group that writes the stream to PostgreSQL."""

OPEN_CALLS = "objecta:calls:open"
"""Redis hash: event id → ``<replica id>|<UsageEvent JSON>``, written at admission, removed at settlement. An entry
whose replica has no heartbeat belongs to a call that its gateway lost; the event holds what was known then."""

OPEN_HOLDS = "objecta:calls:holds"
"""Redis hash: event id → what the open call holds of budgets and token rates (``models.budgets``); ends with it."""

SETTLED_PREFIX = "objecta:calls:settled:"
"""A key per settled event, for a while: an event whose settlement is sent again is not added again."""

REPLICA_PREFIX = "objecta:replica:"
"""A key per gateway replica, renewed while it lives, expiring ``REPLICA_LEASE_SECONDS`` after its death."""

REPLICA_LEASE_SECONDS = 10

INVALIDATIONS = "objecta:invalidate"
"""Pub/sub channel: ``key:<api key id>`` or ``organisation:<organisation id>``; cached principals to forget."""

LIMIT_PREFIX = "objecta:limit:"
"""Admission state: ``objecta:limit:{scope}:<id>:<what>``."""

BUDGET_PREFIX = "objecta:budget:"
"""A hash per budget and window, ``objecta:budget:<budget id>:<window>``; its fields are told in ``models.budgets``."""

BUDGET_COUNTS = "/internal/budgets/counts"
"""The control plane's route that puts the ledger's sums into budgets' windows."""

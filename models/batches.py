"""A batch: what clients see of it, and what gateway, job and control plane tell each other about it.

Invariants
1. A line is begun before it is sent, and done once its outcome is recorded: a line of which the ledger knows a call is
   never sent again.
2. An outcome is one line of the output file, as text: neither the job nor the control plane looks into an answer.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.files import UploadEnd
from models.identity import Principal

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
StopReason = Literal["cancelled", "expired", "revoked", "failed"]
"""Why a job sends no more lines; ``revoked``: the key that pays may no longer be used."""

WINDOW = "24h"
WINDOW_SECONDS = 86_400
LINES_MAX = 50_000
INPUT_BYTES_MAX = 200 * 1024 * 1024
ERRORS_MAX = 100
OUTCOMES_MAX = 1_000
LIST_MAX = 100


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchCreate(_Frozen):
    """A new batch, as OpenAI's clients ask for it."""

    input_file_id: str = Field(min_length=1, max_length=128)
    endpoint: BatchEndpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None


class BatchOwner(_Frozen):
    """Whose key pays for it."""

    api_key_id: str


class BatchStart(_Frozen):
    """What the gateway tells the control plane of a new batch."""

    owner: BatchOwner
    batch: BatchCreate


class LineError(_Frozen):
    """Why an input file is no batch. ``line`` counts from one."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchOrder(_Frozen):
    """What the job has to do, its lines counted from one. ``principal`` None: ``stop`` is ``revoked``.

    ``done``: lines with an outcome. ``lost``: lines that an earlier job sent, and whose answer nobody has.
    """

    id: str
    principal: Principal | None
    organisation_id: str
    project_id: str
    endpoint: BatchEndpoint
    input_file_id: str
    expires_at: int
    stop: StopReason | None
    done: tuple[int, ...]
    lost: tuple[int, ...]


class Validated(_Frozen):
    """The input file's lines, or what is wrong with it."""

    model: str | None = None
    total: int = Field(default=0, ge=0, le=LINES_MAX)
    errors: Annotated[tuple[LineError, ...], Field(max_length=ERRORS_MAX)] = ()


class Begin(_Frozen):
    """Lines about to be sent."""

    lines: Annotated[tuple[int, ...], Field(min_length=1, max_length=OUTCOMES_MAX)]


class Outcome(_Frozen):
    """What became of a line: a line of the output file where ``ok``, else of the error file."""

    line: int = Field(ge=1, le=LINES_MAX)
    ok: bool
    text: str


class Outcomes(_Frozen):
    """Some lines' outcomes, by rising line."""

    data: Annotated[tuple[Outcome, ...], Field(max_length=OUTCOMES_MAX)]


class Told(_Frozen):
    """The answer to whatever the job reports: whether it must stop, and why."""

    stop: StopReason | None


class WrittenFile(_Frozen):
    """A file whose bytes are in the store, to become visible together with the batch's end."""

    id: str
    end: UploadEnd


class BatchEnd(_Frozen):
    """All that is to be done is done. Lines that ``stop`` kept from being sent are in the error file."""

    stop: StopReason | None
    output: WrittenFile | None
    errors: WrittenFile | None
    failed: int = Field(ge=0, description="Lines in the error file")

"""Ray's Jobs API, as far as we use it.

Source: https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html. With token
authentication on, the dashboard wants ``authorization: Bearer <token>`` (401 without, 403 for a wrong one). It answers
500 both for its own faults and for a submission id that exists already, so after a 500 we ask whether the job is there.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


class JobsAway(Exception):
    """The Jobs API does not answer, or not sensibly: nothing is known."""


class JobRefused(Exception):
    """The Jobs API will never take this job."""


class Job(BaseModel):
    """What the API says of a job."""

    status: JobStatus
    driver_exit_code: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has reached a final state."""
        return self.status in {"STOPPED", "SUCCEEDED", "FAILED"}


class JobsClient:
    """A client of one cluster's Jobs API; every method raises JobsAway."""

    def __init__(self, url: str, token: SecretStr | None, call_seconds_max: float) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=call_seconds_max)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def submit(self, job_id: str, entrypoint: str, cpus: float, metadata: dict[str, str]) -> None:
        """Submit a job under our own id; one that is there already counts as submitted. Raises JobRefused too."""
        order = {
            "submission_id": job_id,
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": cpus,
            "metadata": metadata,
        }
        answer = await self._call("POST", "/api/jobs/", order)
        if answer.status_code == HTTPStatus.BAD_REQUEST:
            raise JobRefused("the Jobs API refused the job")
        if not answer.is_success and (not answer.is_server_error or await self.find(job_id) is None):
            raise JobsAway(f"the Jobs API answered {answer.status_code}")

    async def find(self, job_id: str) -> Job | None:
        """The job, or None where the cluster does not know it."""
        answer = await self._call("GET", f"/api/jobs/{job_id}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        _expect_success(answer)
        try:
            return Job.model_validate_json(answer.content)
        except ValidationError as error:
            raise JobsAway("the Jobs API answered something else than a job") from error

    async def stop(self, job_id: str) -> None:
        """Ask a job to stop; it is SIGTERM first, SIGKILL a few seconds later. One that is gone counts as stopped."""
        answer = await self._call("POST", f"/api/jobs/{job_id}/stop")
        if answer.status_code != HTTPStatus.NOT_FOUND:
            _expect_success(answer)

    async def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise JobsAway(f"the Jobs API does not answer: {type(error).__name__}") from error


def _expect_success(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise JobsAway(f"the Jobs API answered {answer.status_code}")

"""The control plane as the command uses it, through its public API."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from cluster.errors import ClusterError

REQUEST_SECONDS_MAX = 30.0
POLL_SECONDS = 0.2
ENDED = {"succeeded", "failed", "cancelled"}


class ControlPlane:
    """One caller of the control plane. Raises ClusterError with the API's own message where it refuses."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"authorization": f"Bearer {key}"},
            timeout=REQUEST_SECONDS_MAX,
            trust_env=False,
            transport=httpx.HTTPTransport(retries=2),
        )

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        """One resource or list."""
        return self._call("GET", path, params=parameters)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create or act."""
        return self._call("POST", path, json=body or {})

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ClusterError(f"the control plane does not answer ({error!r}): objecta status shows why") from error
        if answer.is_error:
            raise ClusterError(f"the control plane refused {method} {path}: {_reason(answer)}")
        return answer.json()

    def organisation(self) -> str:
        """The id of the organisation that this key belongs to; for the operator, of the newest one."""
        me = self.get("/me")
        found = me.get("organisation_id") or next((one["id"] for one in self.get("/organisations")["data"]), None)
        if not found:
            raise ClusterError("there is no organisation yet: objecta keys create makes one")
        return str(found)

    def knowledge_base(self, organisation_id: str, name: str, embedding_model: str) -> dict[str, Any]:
        """The knowledge base of that name, made where there is none."""
        base = f"/organisations/{organisation_id}/knowledge-bases"
        found = self.get(base, name=name)["data"]
        return found[0] if found else self.post(base, {"name": name, "embedding_model": embedding_model})

    def ingest(
        self, organisation_id: str, knowledge_base_id: str, path: Path, watch: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Ingest and wait for the end. Raises ClusterError where the ingestion failed."""
        base = f"/organisations/{organisation_id}/knowledge-bases/{knowledge_base_id}/ingestions"
        run = self.post(base, {"path": str(path.resolve())})
        while run["state"] not in ENDED:
            watch(run)
            time.sleep(POLL_SECONDS)
            run = self.get(f"{base}/{run['id']}")
        watch(run)
        if run["state"] != "succeeded":
            raise ClusterError(f"the ingestion {run['state']}: {run['error'] or 'no reason given'}")
        return run


def _reason(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f"{error['message']} (field {error['param']})" if error["param"] else str(error["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"

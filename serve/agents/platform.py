"""What an agent asks of the rest of the platform, over one pool of connections.

The cluster secret is a header of the pool; on whose behalf a call is made travels with the call.
"""

from typing import Any

import httpx2
from pydantic import TypeAdapter, ValidationError

from models.agents import PublishedAgent
from models.channels import CLUSTER_SECRET_HEADER, RETRIEVAL_PREFIX
from models.documents import Passage, SearchRequest
from models.errors import ContextTooLong, ModelNotFound, Unavailable, UpstreamError
from serve.agents.config import AgentRuntimeConfig
from serve.agents.relay import relayed

QUERY_CHARACTERS_MAX = 8_000
SHORTENINGS_MAX = 8
PASSAGES: TypeAdapter[dict[str, list[Passage]]] = TypeAdapter(dict[str, list[Passage]])


class Platform:
    """The control plane's agents, the gateway's embeddings and the retrieval application."""

    def __init__(self, config: AgentRuntimeConfig) -> None:
        self._gateway_url = config.gateway_url
        self._control_plane_url = config.control_plane_url
        self._timeout = httpx2.Timeout(config.lookup_seconds_max, connect=config.connect_seconds_max)
        self.http = httpx2.AsyncClient(
            headers={CLUSTER_SECRET_HEADER: config.cluster_secret.get_secret_value()},
            timeout=httpx2.Timeout(config.seconds_max, connect=config.connect_seconds_max),
            limits=httpx2.Limits(max_connections=config.connections_max, max_keepalive_connections=64),
            trust_env=False,
        )

    async def close(self) -> None:
        """End every connection."""
        await self.http.aclose()

    async def published_agent(self, organisation_id: str, agent_id: str, version: int) -> PublishedAgent:
        """One version, by identity. Raises ModelNotFound, Unavailable."""
        url = f"{self._control_plane_url}/internal/agents/{agent_id}/versions/{version}"
        try:
            response = await self.http.get(url, params={"organisation_id": organisation_id}, timeout=self._timeout)
        except httpx2.HTTPError as error:
            raise Unavailable("The agent's definition cannot be had at the moment.", retry_after_seconds=1.0) from error
        if response.status_code == 404:
            raise ModelNotFound("The agent does not exist or you do not have access to it.", param="model")
        if response.status_code != 200:
            raise Unavailable("The agent's definition cannot be had at the moment.", retry_after_seconds=1.0)
        return PublishedAgent.model_validate_json(response.content)

    async def embed(self, model: str, text: str, headers: dict[str, str]) -> tuple[float, ...]:
        """The vector of a query. A text above the model's window is searched by its beginning and its end.

        Raises what the gateway answers.
        """
        text = text[:QUERY_CHARACTERS_MAX]
        for _ in range(SHORTENINGS_MAX):
            try:
                return await self._embedding(model, text, headers)
            except ContextTooLong:
                part = max(1, len(text) // 4)
                text = f"{text[:part]} {text[-part:]}"
        return await self._embedding(model, text, headers)

    async def _embedding(self, model: str, text: str, headers: dict[str, str]) -> tuple[float, ...]:
        payload = {"model": model, "input": text, "encoding_format": "float"}
        response = await self._post("/v1/embeddings", payload, headers)
        if response.status_code != 200:
            raise relayed(response.status_code, _json(response), response.headers)
        try:
            return tuple(float(value) for value in response.json()["data"][0]["embedding"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UpstreamError("The embedding model's answer cannot be read.") from error

    async def search(self, request: SearchRequest) -> list[Passage]:
        """The passages for a query, best first. Raises Unavailable, UpstreamError."""
        response = await self._post(f"{RETRIEVAL_PREFIX}/search", request.model_dump(mode="json"), {})
        if response.status_code == 503:
            raise relayed(503, _json(response), response.headers)
        if response.status_code != 200:
            raise UpstreamError("The knowledge base cannot be searched.")
        try:
            return PASSAGES.validate_json(response.content)["passages"]
        except (ValidationError, KeyError) as error:
            raise UpstreamError("The knowledge base's answer cannot be read.") from error

    async def _post(self, path: str, payload: dict[str, Any], headers: dict[str, str]) -> httpx2.Response:
        try:
            return await self.http.post(
                f"{self._gateway_url}{path}", json=payload, headers=headers, timeout=self._timeout
            )
        except httpx2.HTTPError as error:
            raise Unavailable("A service that the agent needs cannot be reached.", retry_after_seconds=1.0) from error


def _json(response: httpx2.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None

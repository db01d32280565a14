"""A LangChain chat model class by its import path: what it can be told, and instances of it.

LangChain configures a model through its constructor, so each set of parameters is an instance; the last ones are kept.
What LangChain has no common words for is in a ``Dialect``, one for each family of classes; the rest we ask the class:
the fields that it declares, and the profile that it gives of a model.
"""

import hashlib
import importlib
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from models.errors import PermissionDenied
from serve.hosted.config import HostedConfig
from serve.refusals import CREDENTIAL_MISSING, CREDENTIAL_UNUSABLE


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of classes differs. The defaults hold for a class we know nothing of.

    ``formats``: types of ``response_format`` that the provider itself takes. ``no_tool_choice``: how tools are shown
    but not to be called; None where they have to be left out. ``image_addresses``: addresses of images are handed on
    to the provider, where another class might fetch them from inside our network. ``system_anywhere``: instructions
    keep their place. ``names``, ``image_details``: those fields reach the provider. ``type_lists``: a schema's ``type``
    may be a list. ``strict_each``: each tool is strict or not, where another class takes one word for all of them.
    """

    formats: frozenset[str] = frozenset()
    no_tool_choice: Any = None
    images: bool = True
    image_addresses: bool = False
    image_details: bool = False
    system_anywhere: bool = False
    names: bool = False
    strict_each: bool = False
    type_lists: bool = False


DIALECTS: Mapping[str, Dialect] = {
    "ChatAnthropic": Dialect(formats=frozenset({"json_schema"}), no_tool_choice={"type": "none"}, image_addresses=True),
    "BaseChatOpenAI": Dialect(
        formats=frozenset({"json_schema", "json_object"}),
        no_tool_choice="none",
        image_addresses=True,
        image_details=True,
        system_anywhere=True,
        names=True,
        strict_each=True,
        type_lists=True,
    ),
}
MODEL_FIELDS = ("model", "model_name", "model_id")


class ModelClass:
    """One provider's class."""

    def __init__(self, config: HostedConfig) -> None:
        """Raises ValueError where the path leads to no chat model, or the class cannot be told what we have to say.

        A class that knows of an address must be given it, and none is made without a key that it knows of: otherwise
        the environment could decide where prompts go, and on whose account.
        """
        self._kind = load(config.model_class)
        names = [item.__name__ for item in self._kind.__mro__]
        self.dialect = next((DIALECTS[name] for name in names if name in DIALECTS), Dialect())
        self._model_field = self.field(MODEL_FIELDS)
        if self._model_field is None:
            raise ValueError(f"{config.model_class} takes no model's name")
        self._name = config.name
        self._takes_key = self.field(("api_key",)) is not None
        self._fixed = self._arguments(config)
        self._kept: OrderedDict[bytes, BaseChatModel] = OrderedDict()
        self._kept_max = config.models_max
        self.takes_tools = self._kind.bind_tools is not BaseChatModel.bind_tools
        self._tool_options = frozenset(inspect.signature(self._kind.bind_tools).parameters)

    def _arguments(self, config: HostedConfig) -> dict[str, Any]:
        given = {"api_key": config.api_key, "base_url": config.base_url}
        for name, value in given.items():
            known = self.field((name,)) is not None
            if value is not None and not known:
                raise ValueError(f"{config.model_class} takes no {name}; give it in options, in the class's own words")
            if value is None and known and name == "base_url" and name not in config.options:
                raise ValueError(f"{config.model_class} needs {name}")
        # The gateway decides about retries; a stream without usage could not be billed.
        wanted = {"timeout": config.idle_seconds_max, "max_retries": 0, "stream_usage": True}
        ours = {name: value for name, value in wanted.items() if self.field((name,))}
        return {**ours, **{name: value for name, value in given.items() if value is not None}, **config.options}

    def field(self, names: tuple[str, ...]) -> str | None:
        """The first of ``names`` that the class's constructor declares."""
        by_name = self._kind.model_config.get("populate_by_name") or self._kind.model_config.get("validate_by_name")
        declared: set[str] = set()
        for name, info in self._kind.model_fields.items():
            if info.alias is not None:
                declared.add(info.alias)
            if info.alias is None or by_name:
                declared.add(name)
        return next((name for name in names if name in declared), None)

    def takes_tool_option(self, name: str) -> bool:
        """Whether ``bind_tools`` declares the argument."""
        return name in self._tool_options

    def model(self, name: str, settings: Mapping[str, Any], key: SecretStr | None = None) -> BaseChatModel:
        """The provider's model ``name`` with ``settings``, under ``key`` or the platform's own.

        Raises pydantic.ValidationError that names a field; PermissionDenied where there is no key, or no place for it.
        """
        own = self._own(key)
        digest = None if key is None else hashlib.sha256(key.get_secret_value().encode()).hexdigest()
        place = orjson.dumps([digest, name, settings], option=orjson.OPT_SORT_KEYS)
        found = self._kept.get(place)
        if found is None:
            arguments = {**self._fixed, cast("str", self._model_field): name, **settings, **own}
            found = self._kept[place] = self._kind(
                **{field: self._plain(field, arguments[field]) for field in arguments}
            )
            if len(self._kept) > self._kept_max:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return found

    def _own(self, key: SecretStr | None) -> dict[str, SecretStr]:
        """The key as an argument. Raises PermissionDenied."""
        if key is None and self._takes_key and "api_key" not in self._fixed:
            text = f"There is no credential for the upstream '{self._name}': your organisation has to bring one."
            raise PermissionDenied(text, code=CREDENTIAL_MISSING)
        if key is not None and not self._takes_key:
            text = f"The upstream '{self._name}' cannot be called under an organisation's own credential."
            raise PermissionDenied(text, code=CREDENTIAL_UNUSABLE)
        return {} if key is None else {"api_key": key}

    async def close(self) -> None:
        """End the connections of the clients that the instances hold, wherever a class keeps them."""
        clients = [value for model in self._kept.values() for value in vars(model).values()]
        for client in clients:
            close: Any = getattr(client, "close", None)
            if inspect.iscoroutinefunction(close):
                await close()

    def _plain(self, name: str, value: Any) -> Any:
        """A secret as the class wants it: some declare plain strings."""
        if not isinstance(value, SecretStr):
            return value
        fields = self._kind.model_fields
        info = next((info for key, info in fields.items() if name in {key, info.alias}), None)
        return value if info is not None and "SecretStr" in str(info.annotation) else value.get_secret_value()


def load(path: str) -> type[BaseChatModel]:
    """``package.module:Class``. Raises ValueError."""
    module, _, name = path.partition(":")
    try:
        kind: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {path}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, BaseChatModel)):
        raise ValueError(f"{path} is not a LangChain chat model")
    return kind

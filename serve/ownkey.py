"""An organisation's own key as a call bears it, and what such a call costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.usage import Price


@dataclass(frozen=True, slots=True)
class OwnKey:
    """``headers`` hold the key, and go to the upstream alone; ``percent`` of the price book is what the call costs."""

    headers: Mapping[str, str] = field(repr=False)
    percent: int

    def price(self, price: Price) -> Price:
        """What a call under this key costs."""
        return share(price, self.percent)


def share(price: Price, percent: int) -> Price:
    """So many hundredths of a price, each figure rounded up to a whole micro-unit a million tokens."""
    figures = {name: value for name, value in price.model_dump().items() if name.endswith("_micro")}
    return price.model_copy(update={name: -(-value * percent // 100) for name, value in figures.items()})

"""Providers' exports as lines, and the ledger beside them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.usage.invoices import InvoiceError, Line, parse
from control_plane.usage.reconciliation import compare, named_as_ours

OPENAI = """start_time,end_time,start_time_iso,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens
1793491200,1793577600,2026-11-01T00:00:00+00:00,gpt-5-2026-08-07,3,100,20,40
1793491200,1793577600,2026-11-01T00:00:00+00:00,gpt-5-2026-08-07,1,10,2,0
1793577600,1793664000,2026-11-02T00:00:00+00:00,,,,,
"""
OPENAI_COSTS = """start_time_iso,amount_value,amount_currency,line_item
2026-11-01T00:00:00+00:00,0.0000015,usd,"gpt-5-2026-08-07, input"
2026-11-01T00:00:00+00:00,1.0000010,usd,"gpt-5-2026-08-07, output"
"""
ANTHROPIC = (
    "usage_date_utc,model_version,api_key,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
    "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count\n"
    "2026-11-01,claude-x,k,100,20,5,40,7,0\n"
)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (OPENAI, {("2026-11-01", "gpt-5-2026-08-07"): Line(input=110, cached=40, output=22)}),
        (OPENAI_COSTS, {("2026-11-01", "gpt-5-2026-08-07"): Line(cost_micro=1_000_003)}),
        (ANTHROPIC, {("2026-11-01", "claude-x"): Line(input=165, cached=40, cache_write=25, output=7)}),
        (
            "\ufeffDay;Model;Input Tokens;Cached;Output;Cost\r\n\r\n2026-11-01;m;1,000;4;5;$1.25\r\n",
            {("2026-11-01", "m"): Line(input=1_000, cached=4, output=5, cost_micro=1_250_000)},
        ),
        ("day,model,cost\n2026-11-01,,-0.5\n", {("2026-11-01", "(no model)"): Line(cost_micro=-500_000)}),
    ],
    ids=["OpenAI's usage", "OpenAI's costs", "Anthropic's usage", "plain", "a credit"],
)
def test_an_export_is_summed_by_day_and_model(text: str, lines: object) -> None:
    assert parse(text) == lines


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["the file is empty"]),
        ("when,what\n", ["line 1: no column for day, model, tokens or cost; there are: when, what"]),
        (
            'day,model,output,cost\n2026-11-31,m,1.5,x\n"2026-\n11",m,-1,NaN\n2026-11-01,m\n',
            [
                "line 2, column 1 (day): '2026-11-31' is no day",
                "line 2, column 3 (output): '1.5' is no number of tokens",
                "line 2, column 4 (cost): 'x' is no amount",
                "line 4, column 1 (day): '2026-\\n11' is no day",
                "line 4, column 3 (output): '-1' is no number of tokens",
                "line 4, column 4 (cost): 'NaN' is no amount",
                "line 5: 2 cells, the header has 4",
            ],
        ),
        ('day,model,cost\n2026-11-01,"m,1\n', ["this is no CSV: unexpected end of data"]),
        (
            "day,model,cost,currency\n2026-11-01,m,1,usd\n2026-11-01,m,1,eur\n",
            ["amounts are in several currencies: EUR, USD"],
        ),
        (
            "day,model,output\n" + "x,m,1\n" * 22,
            [*(f"line {n}, column 1 (day): 'x' is no day" for n in range(2, 22)), "and 2 more"],
        ),
    ],
)
def test_a_cell_that_cannot_be_read_makes_the_file_wrong_and_says_where(text: str, problems: list[str]) -> None:
    with pytest.raises(InvoiceError) as raised:
        parse(text)
    assert list(raised.value.problems) == problems


AMOUNTS = st.decimals(-1_000, 1_000, allow_nan=False, places=9)


@given(st.lists(st.tuples(st.integers(0, 10**9), AMOUNTS), min_size=1, max_size=30))
def test_no_token_and_no_fraction_is_lost_however_many_rows_a_day_has(rows: list[tuple[int, Decimal]]) -> None:
    text = "day,model,output,cost\n" + "".join(f"2026-11-01,m,{tokens},{cost:f}\n" for tokens, cost in rows)
    line = parse(text).get(("2026-11-01", "m"), Line(output=0, cost_micro=0))
    assert line.output == sum(tokens for tokens, _ in rows)
    assert abs(line.cost_micro - sum(cost for _, cost in rows) * 1_000_000) <= Decimal("0.5")


def test_a_model_of_the_invoice_is_found_under_the_ledger_s_name() -> None:
    lines = {("d", "gpt-5-2026-08-07"): Line(output=1), ("d", "gpt-5"): Line(output=2), ("d", "their"): Line(output=4)}
    assert named_as_ours(lines, {"gpt-5", "our"}, {"their": "our"}) == {
        ("d", "gpt-5"): Line(output=3),
        ("d", "our"): Line(output=4),
    }
    assert named_as_ours(lines, {"gpt-5-2026-08-07"}, {}) == lines


@pytest.mark.parametrize(("tolerance", "within"), [("0", False), ("9.9", False), ("10", True)])
def test_a_difference_is_judged_by_the_provider_s_figure(tolerance: str, within: bool) -> None:
    (found,) = compare({("d", "m"): Line(10, 1, 1, 110, 5)}, {("d", "m"): Line(output=100)}, Decimal(tolerance))
    assert (found.figure, found.by, found.within) == ("output", 10, within)


def test_what_only_one_side_has_is_a_difference() -> None:
    found = compare({("d", "a"): Line(output=1)}, {("d", "b"): Line(output=1)}, Decimal(50))
    assert [(one.model, one.by, one.within) for one in found] == [("a", 1, False), ("b", -1, False)]

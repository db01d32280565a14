"""The ``objecta`` command: the platform on this machine, and the control plane's everyday work.

What goes wrong is one line that says what to do, on standard error, with exit code 1.
"""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from cluster.errors import ClusterError
from cluster.pull import present
from cluster.supervisor import bring_down
from deployments.cli.client import ControlPlane
from deployments.cli.demo import run_demo
from deployments.cli.ingest import ingest_folder
from deployments.cli.reconcile import reconcile
from deployments.cli.runner import pull_models, run_foreground, run_in_background, serve_until_stopped
from deployments.cli.show import console, errors
from deployments.cli.status import show_status
from deployments.cli.talk import talk
from deployments.local import config_of, local_config, local_home, state_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
models = typer.Typer(no_args_is_help=True, help="The model catalogue and the local store.")
keys = typer.Typer(no_args_is_help=True, help="API keys.")
secrets = typer.Typer(no_args_is_help=True, help="What seals the keys that organisations bring for providers.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
usage = typer.Typer(no_args_is_help=True, help="What the ledger says.")
app.add_typer(usage, name="usage")
app.add_typer(secrets, name="secrets")


@app.command()
def up(detach: Annotated[bool, typer.Option("--detach", help="Return when a chat completion would succeed.")] = False):
    """Start the platform and keep it running until Ctrl-C (or `objecta down`)."""
    if detach:
        run_in_background()
    else:
        run_foreground(serve_until_stopped)


@app.command()
def down():
    """Stop the platform of this home, or clean up after one that died."""
    console.print("stopped" if bring_down(local_home()) else "nothing was running")


@app.command()
def status():
    """Every part: state, pid, port, version, memory; and the models served. Exit code 3 where nothing runs."""
    if not show_status(local_home()):
        raise typer.Exit(3)


@models.command("list")
def list_models():
    """The catalogue: kind, context window, price, whether it is served and pulled."""
    config = local_config(local_home())
    for entry in config.catalogue().models:
        price = entry.price_at()
        marks = [
            "served" if entry.id in config.models else "",
            "pulled" if present(entry, config.model_store) is not None else "",
        ]
        console.print(
            f"{entry.id:<32} {entry.kind:<10} {entry.context_window:>8} tokens  "
            f"{price.prompt_micro / 1e6:.4f}/{price.completion_micro / 1e6:.4f} a million in/out  "
            f"{' '.join(mark for mark in marks if mark)}"
        )


@models.command("pull")
def pull():
    """Bring the served models into the store."""
    pull_models(local_config(local_home()))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    organisation: Annotated[str | None, typer.Option(help="Its id; the newest by default, made where none is.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May also manage the organisation.")] = False,
):
    """Create an API key; it is shown this once."""
    home = local_home()
    operator = ControlPlane(state_of(home)["control_plane_url"], config_of(home).operator_key.get_secret_value())
    found: list[dict[str, Any]] = operator.get("/organisations")["data"]
    if organisation is None:
        organisation = (
            found[0]["id"] if found else operator.post("/organisations", {"name": "Default"})["organisation"]["id"]
        )
    base = f"/organisations/{organisation}"
    project = operator.get(f"{base}/projects")["data"][0]["id"]
    body = {"name": name, "project_id": project, "role": "admin" if admin else "member"}
    key = operator.post(f"{base}/api-keys", body)
    console.print(key["key"], soft_wrap=True)


@secrets.command("rewrap")
def rewrap():
    """Have the present `credential_key` wrap what former ones wrap. Exit code 3 where one of them is still needed."""
    home = local_home()
    operator = ControlPlane(state_of(home)["control_plane_url"], config_of(home).operator_key.get_secret_value())
    done = operator.post("/data-keys/rewrap")
    console.print(f"{done['rewrapped']} re-wrapped under {done['key_id']}, {done['remaining']} left")
    if done["remaining"]:
        raise typer.Exit(3)


@usage.command("reconcile")
def reconcile_invoice(
    file: Annotated[
        Path, typer.Argument(help="A provider's export: CSV of OpenAI, Anthropic, or in the plain format.")
    ],
    organisation: Annotated[
        str | None, typer.Option(help="An invoice for this organisation's own keys; the platform's by default.")
    ] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(help="Compare with these; those with a model of the invoice by default.")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(help="THEIRS=OURS: a model's two names.")] = None,
    tolerance: Annotated[str, typer.Option(help="Per cent of the provider's figure.")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    url: Annotated[str | None, typer.Option(help="The control plane; this machine's by default.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="OBJECTA_KEY", help="Operator or admin; the operator's here.")
    ] = None,
):
    """Compare the ledger with a provider's invoice. Exit code 1 where they differ, 2 where they cannot be compared."""
    try:
        home = local_home()
        operator = config_of(home).operator_key.get_secret_value() if key is None else key
        with closing(ControlPlane(url or state_of(home)["control_plane_url"], operator)) as control_plane:
            same = reconcile(
                control_plane,
                file,
                organisation=organisation,
                upstreams=upstream or (),
                aliases=alias or (),
                tolerance=tolerance,
                as_json=as_json,
            )
    except ClusterError as error:
        errors.print(f"objecta: {error.message}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if same else 1)


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(help="A folder or a file.")],
    knowledge_base: Annotated[str, typer.Option("--knowledge-base", help="Its name; made where there is none.")],
    organisation: Annotated[str | None, typer.Option(help="Its id; the newest by default.")] = None,
):
    """Ingest documents into a knowledge base. Exit code 0 when every document has a final state."""
    home = local_home()
    ingest_folder(state_of(home), config_of(home), path, knowledge_base, organisation)


@app.command()
def chat(
    model: Annotated[str | None, typer.Option(help="A model or an agent; the first chat model by default.")] = None,
    key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="The demo's by default.")] = None,
):
    """Talk to a model or an agent; an empty line or Ctrl-D ends."""
    talk(local_home(), model, key)


@app.command(hidden=True)
def demo(
    docs: Annotated[
        Path | None, typer.Option(help="A folder to ingest; the project's documentation by default.")
    ] = None,
    ask: Annotated[str | None, typer.Option(help="The question.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End after the answer.")] = False,
):
    """Start everything, ingest, ask, and show a cited answer."""
    raise typer.Exit(run_demo(docs, ask, once=once))


def main() -> None:
    """Entry point."""
    try:
        app()
    except ClusterError as error:
        errors.print(f"[red]objecta:[/red] {escape(error.message)}", soft_wrap=True)
        sys.exit(1)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, one['loc'])) or 'configuration'}: {one['msg']}" for one in error.errors()]
        errors.print("objecta: the configuration is wrong:\n" + "\n".join(lines), markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The command `align`: reads arguments, calls one function, prints what it returns.

Heavy libraries are imported inside the commands, so `align --help` is fast. Every mistake of the
user is one line on standard error.

Exit codes: 0 done or gate passed, 1 gate failed, 2 bad input or usage, 3 the gate has insufficient
evidence, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from align import __version__
from align.auditing import audit
from align.environment import set_environment
from align.errors import UserError
from align.scorer import scorer
from align.team import Elsewhere, launched_rank, open_team

if TYPE_CHECKING:
    from align.config import RunConfig

Config = Annotated[Path, typer.Argument(help="YAML file of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, such as ppo.learning_rate=1e-5.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")]
Model = Annotated[
    str, typer.Argument(help="Stage folder, model folder, .gguf file or hub id to load.")
]
Prompt = Annotated[str | None, typer.Option(help="Answer this and leave; default: converse.")]
Temperature = Annotated[float, typer.Option(min=0, max=10, help="0: the likeliest answer.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=100_000, help="Longest answer, in tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the sampling.")]
STAGES = {
    "run": (None, "Run every stage of the configuration, then evaluate and report."),
    "pretrain": ("pretrain", "Run up to pretraining."),
    "sft": ("sft", "Run up to supervised fine-tuning."),
    "reward": ("reward", "Run up to the reward model."),
    "ppo": ("ppo", "Run up to PPO."),
}
"""Command -> the last stage it runs (None: all, with the report) and its help."""
EXIT_CODES = {"pass": 0, "fail": 1, "insufficient evidence": 3}
"""Verdict of the gate -> exit code."""
# click's UsageError; typer carries a copy of click, hence the detour.
USAGE_ERROR = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Align a language model in stages, and prove what alignment did to it.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Align a language model in stages, and prove what alignment did to it."""
    if version:
        typer.echo(f"alignkit {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _add_stage_command(name: str, until: str | None, text: str) -> None:
    """Register a command that runs the pipeline up to a stage."""

    @app.command(name, help=text)
    def command(config: Config, overrides: Overrides = None, quiet: Quiet = False) -> None:
        _run_until(until, config, overrides, quiet)


def _run_until(
    until: str | None, config: Path, overrides: list[str] | None, quiet: bool
) -> NoReturn:
    """Run the pipeline; the gate's verdict is the exit code."""
    from align.progress import Progress

    words = f"align {shlex.join(sys.argv[1:])}"
    with open_team() as team, Progress(quiet=quiet or not team.main) as progress:
        run = _load(config, overrides)
        from align.pipeline import run_pipeline

        summary = run_pipeline(run, until=until, command=words, progress=progress, team=team)
        if summary.report is not None:
            progress.note(f"gate: {summary.verdict}; report: {summary.report}")
    raise typer.Exit(_exit_code(run, summary.verdict))


for _name, (_until, _text) in STAGES.items():
    _add_stage_command(_name, _until, _text)
app.command()(scorer)


@app.command("eval")
def evaluate(
    subject: Annotated[str, typer.Argument(help="YAML file of a run, or any model.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Of a model: TASK=ROWS, such as arc_easy=arc.jsonl. Or key=value."),
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="YAML file with a section `evals`.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of a model's results; default: results.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A model's name in that folder.")] = None,
    lm_eval: Annotated[
        list[str] | None,
        typer.Option(help="A task of an installed lm-evaluation-harness; repeatable."),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder of more such tasks.", exists=True)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First rows of such tasks.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Their examples.")] = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate every stage of a run, or any model on tasks of its own."""
    if subject.endswith((".yaml", ".yml")):
        if any(given is not None for given in (tasks, out, name, lm_eval)):
            raise UserError("--tasks, --out, --name, --lm-eval go with a model", where=subject)
        _run_until("evals", Path(subject), settings, quiet)
    from align.evaluation import Harness, evaluate_lone, lone_run
    from align.progress import Progress

    harness = Harness(tuple(lm_eval or ()), include_path, limit, num_fewshot)
    place = out or "results"
    with open_team() as team, Progress(quiet=quiet or not team.main) as progress:
        run = lone_run(subject, settings or (), tasks=tasks, out=place, name=name)
        _prepare(run, online=bool(lm_eval))
        for line in evaluate_lone(run, progress, harness, team):
            progress.note(line)


app.command()(audit)


@app.command()
def compare(
    results: Annotated[
        list[Path], typer.Argument(help="Folders of runs, of their 5-evals/STAGE, of `align eval`.")
    ],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the tables to.")] = None,
) -> None:
    """Compare stored results of models with those of the first, item by item."""
    from align.artifacts import write_json_atomic
    from evals.compare import compare_stored
    from evals.report.lines import comparison_lines

    tables = compare_stored(results, task or ())
    for line in comparison_lines(tables):
        typer.echo(line)
    if json is not None:
        write_json_atomic(json, tables)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="YAML file of the run, or the run's folder.")],
    overrides: Overrides = None,
) -> None:
    """Write the report of a finished run again, by new requirements if a YAML is given."""
    if source.is_dir() and not (source / "config.yaml").is_file():
        raise UserError("no run in this folder: config.yaml is missing", where=str(source))
    run = _load(source / "config.yaml" if source.is_dir() else source, overrides)
    folder = source if source.is_dir() else Path(run.output) / run.name
    from align.pipeline import rebuild_report

    page, verdict = rebuild_report(folder, run)
    typer.echo(f"gate: {verdict}; report: {page}")
    raise typer.Exit(_exit_code(run, verdict))


@app.command()
def data(config: Config, overrides: Overrides = None) -> None:
    """Show every data source of a run: rows, an example, and overlap with the evaluation."""
    run = _load(config, overrides)
    from align.preview import preview

    for line in preview(run):
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Show what this machine offers, and what that allows."""
    set_environment(offline=False)
    from align.doctor import examine

    for finding in examine():
        typer.echo(f"{finding.name:<14} {finding.text}")


@app.command()
def chat(
    model: Model,
    prompt: Prompt = None,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
) -> None:
    """Talk with a model."""
    set_environment(offline=Path(model).exists())
    from align.chat import ChatSettings, Conversation

    conversation = Conversation(model, ChatSettings(temperature, max_tokens, seed))
    if prompt is not None:
        typer.echo(conversation.answer(prompt))
        return
    typer.echo("An empty line ends the conversation.")
    while line := typer.prompt("you", default="", show_default=False, prompt_suffix="> "):
        typer.echo(conversation.answer(line))


@app.command()
def export(
    stage: Annotated[str, typer.Argument(help="Folder of a finished stage, or any model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
) -> None:
    """Write a stage as one merged model that transformers loads by itself."""
    set_environment(offline=Path(stage).exists())
    from reward.export import export_stage

    export_stage(stage, out)
    typer.echo(out)


def _exit_code(run: RunConfig, verdict: str | None) -> int:
    """The gate's verdict as exit code; a run without requirements or report is simply done."""
    return EXIT_CODES[verdict] if verdict is not None and run.report.gate else 0


def _load(config: Path, overrides: list[str] | None) -> RunConfig:
    """The checked configuration, with the environment set as it needs."""
    from align.settings import load_run

    return _prepare(load_run(config, overrides or ()))


def _prepare(run: RunConfig, *, online: bool = False) -> RunConfig:
    """The same run, with the environment set as it needs."""
    from align.settings import uses_network

    set_environment(offline=not (online or uses_network(run)))
    return run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = app(arguments, prog_name="align", standalone_mode=False)
    except UserError as error:
        if not (isinstance(error, Elsewhere) and launched_rank()):  # whoever failed has said it
            typer.echo(f"error: {error}", err=True)
        return 2
    except USAGE_ERROR as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        typer.echo(f"error: {text}; see 'align --help'", err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if (
        code == 130 and not launched_rank()
    ):  # typer answers an interrupt with this code, and says nothing
        typer.echo("interrupted; the same command resumes", err=True)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())

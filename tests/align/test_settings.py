"""From YAML and overrides to a run; what each mistake is called."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from align.config import RunConfig
from align.errors import UserError
from align.settings import (
    check_trainer_arguments,
    config_hash,
    config_schema,
    load_run,
    uses_network,
)

RUN = """\
name: tiny
seed: 3
model: {base: org/name}
sft:
  data: {world: instructions, limit: 10}
  learning_rate: 1e-4
  lora: {r: 8, target_modules: [q_proj, v_proj]}
evals:
  tasks:
    words: {kind: perplexity, data: {path: words.jsonl}}
report:
  gate:
    - {task: words, metric: perplexity, at_most: 20}
"""


@pytest.fixture
def run_file(workplace: Path) -> Path:
    path = Path("configs/tiny.yaml")
    path.parent.mkdir()
    path.write_text(RUN)
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_run(path, overrides)
    return str(caught.value)


def test_values_defaults_and_overrides(run_file: Path) -> None:
    run = load_run(run_file, ["sft.batch_size=4", "sft.lora.r=${seed}", "report.gate[0].margin=1"])
    assert run.sft is not None
    assert run.sft.lora is not None
    assert (run.sft.learning_rate, run.sft.batch_size, run.sft.epochs) == (1e-4, 4, 1.0)
    assert (run.sft.lora.r, run.sft.lora.target_modules) == (3, ("q_proj", "v_proj"))
    assert run.report.gate[0].margin == 1.0


def test_a_section_can_be_switched_off(run_file: Path) -> None:
    run = load_run(run_file, ["sft.lora=null", "evals=null"])
    assert run.sft is not None
    assert (run.sft.lora, run.evals) == (None, None)


def test_paths_are_found_beside_the_yaml(run_file: Path, tmp_path: Path) -> None:
    assert load_run(run_file).data.root == "configs"
    assert load_run(run_file, ["data.root=../slices"]).data.root == "slices"
    assert load_run(run_file, ["data.root=/abs"]).data.root == "/abs"
    (run_file.parent / "base").mkdir()
    (tmp_path / "adapter").mkdir()
    run = load_run(run_file, ["model.base=./base", "model.adapters=[adapter, org/lora]"])
    assert run.model is not None
    assert (run.model.base, run.model.adapters) == ("configs/base", ("adapter", "org/lora"))


def test_the_network_is_used_only_for_hub_ids(run_file: Path) -> None:
    (run_file.parent / "base").mkdir()
    assert uses_network(load_run(run_file))
    assert not uses_network(load_run(run_file, ["model.base=./base"]))
    hub = ["model.base=./base", "evals.tasks.words.data={path: null, hub: org/set}"]
    assert uses_network(load_run(run_file, hub))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "sft.learnig_rate=1",
            "sft.learnig_rate: unknown key 'learnig_rate'; allowed: learning_ra",
        ),
        (
            "lora.r=3",
            "lora: unknown key 'lora'; allowed: sft.lora, reward.lora, ppo.lora (nearest)",
        ),
        (
            "evals.tasks.words.kin=x",
            "evals.tasks.words.kin: unknown key 'kin'; allowed: kind (near",
        ),
        (
            "report.gate[0].margn=1",
            "report.gate.0.margn: unknown key 'margn'; allowed: margin (nea",
        ),
        ("sft.batch_size='16'", 'sft.batch_size: "16" (text); allowed: an integer'),
        ("sft.batch_size=true", "sft.batch_size: true (true/false); allowed: an integer"),
        ("sft.batch_size=1.5", "sft.batch_size: 1.5 (number); allowed: an integer"),
        ("sft.batch_size=0", "sft.batch_size: 0 (integer); allowed: a number > 0"),
        ("sft.warmup=1.1", "sft.warmup: 1.1 (number); allowed: a number <= 1"),
        ("sft.lora.alpha=.inf", "sft.lora.alpha: Infinity (number); allowed: a finite number"),
        ("sft.data.limit=1e30", "sft.data.limit: 1e+30 (number); allowed: an integer"),
        (
            "sft.lora.target_modules=3",
            "sft.lora.target_modules: 3 (integer); allowed: text (quote a number or yes/no that is "
            "meant as text) or a list",
        ),
        ("sft.lora.target_modules=[1]", "sft.lora.target_modules: [1] (list); allowed: text"),
        ("sft=3", "sft: 3 (integer); allowed: a mapping"),
        ("device=gpu", "device: \"gpu\" (text); allowed: 'auto', 'cpu', 'cuda' or 'mps'"),
        ("name=a/b", 'name: "a/b" (text); allowed: text that matches'),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(
    run_file: Path, override: str, expected: str
) -> None:
    text = complaint(run_file, override)
    assert text.startswith(f"override {override!r}: {expected}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sft"], "override 'sft': not an override; allowed: dotted.key=value"),
        (["=3"], "override '=3': not an override; allowed: dotted.key=value"),
        (["sft.epochs={"], "override 'sft.epochs={': the value is not YAML"),
        (["sft.epochs=${"], "override 'sft.epochs=${': "),
        (["sft.epochs=${nix}"], "configs/tiny.yaml: Interpolation key 'nix' not found"),
        (
            ["report.gate[7].margin=1"],
            "override 'report.gate[7].margin=1': list index out of range",
        ),
        (["model.base=./nix"], "configs/tiny.yaml: model.base: no such model: './nix'; allowed: "),
        (["seed=???"], "configs/tiny.yaml: Missing mandatory value: seed"),
    ],
)
def test_a_mistaken_override_is_quoted(run_file: Path, overrides: list[str], expected: str) -> None:
    assert complaint(run_file, *overrides).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sft.gradient_accumulation=3", ":4: sft: gradient_accumulation (3) must divide batch_si"),
        ("sft.data.path=x", ":5: sft.data: name exactly one of world, path, hub (given: ['world"),
        ("ppo.data.path=x", ": `ppo` needs a `reward` section"),
        ("report.gate[0].task=wrds", ": report.gate.0.task 'wrds' is no task (words, prompts, rew"),
        ("evals.reward_bias=[words]", ": evals.reward_bias 'words' is no counterfactual task"),
        ("pretrain.data.path=x", ": give exactly one of `model` (load) and `pretrain` (from scr"),
    ],
)
def test_sections_that_do_not_fit_are_named_with_their_line(
    run_file: Path, override: str, expected: str
) -> None:
    assert complaint(run_file, override).startswith(f"configs/tiny.yaml{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ": the file is empty; allowed: a YAML mapping"),
        (b"# only a comment\n", ": the file is empty"),
        (b"- 1\n", ": holds a list; allowed: a YAML mapping"),
        (b"hello\n", ": holds a single value"),
        (b"name: x\nname: y\n", ":2: not valid YAML (found duplicate key name)"),
        (b"name: x\nsft: {lora: {r: 1, r: 2}}\n", ":2: not valid YAML (found duplicate key r)"),
        (b"name: x\nsft: [1\n", ":3: not valid YAML ("),
        (b"a: b: c\n", ":1: not valid YAML ("),
        (b"a: !!python/object:os.system x\n", ":1: not valid YAML (could not determine"),
        (b"name: \xff\n", ": not UTF-8 text ("),
        (b"[" * 600, ": nested too deeply"),
        (b"a: &a [*a]\n", ": nested too deeply"),
        (b"# " + b"x" * 1_000_000, ": 1,000,002 bytes are no configuration"),
        (
            b"name: x\nnme: y\nsed: 3\nmoel: 1\n",
            ":2: nme: unknown key 'nme' (and 2 more mistakes); allowed",
        ),
        (b"nme: x\nmodel: {base: org/x}\n", ":1: nme: unknown key 'nme' (and 1 more mistake);"),
        (b"1: 2\nname: x\nmodel: {base: o/x}\n", ":1: 1: unknown key '1'; allowed: name, seed, "),
        (b"seed: 1\nmodel: {base: o/x}\n", ": name: is missing; allowed: Name of the run's folder"),
    ],
)
def test_a_mistaken_file_is_named_with_the_line(
    workplace: Path, text: bytes, expected: str
) -> None:
    path = Path("run.yaml")
    path.write_bytes(text)
    assert complaint(path).startswith(f"run.yaml{expected}")


def test_aliases_cannot_grow_without_bounds(workplace: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path = Path("run.yaml")
    path.write_text("\n".join(lines))
    assert complaint(path) == "run.yaml: too many keys; allowed: at most 10,000"


def test_missing_files_and_folders_are_named(workplace: Path) -> None:
    assert complaint(Path("nix.yaml")).startswith(
        "nix.yaml: cannot read the configuration (No such file or directory); allowed: a YAML"
    )
    assert complaint(Path()).startswith(".: cannot read the configuration (Is a directory)")


@dataclass
class Arguments:
    """Stands for a trainer's arguments."""

    steps: int = 1
    rate: float = 0.1
    name: str | None = None
    modes: dict[str, Any] | str | None = None
    hidden: int = field(default=0, init=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"steps": 2, "rate": 1, "name": None}, None),
        ({"modes": {"a": 1}}, None),
        ({"modes": "x"}, None),
        ({"step": 2}, "sft.trainer.step: unknown argument; allowed: steps (nearest)"),
        ({"hidden": 2}, "sft.trainer.hidden: unknown argument; allowed: steps, rate, name, modes"),
        ({"steps": "2"}, 'sft.trainer.steps: "2" (text); allowed: int'),
        ({"steps": 2.5}, "sft.trainer.steps: 2.5 (number); allowed: int"),
        ({"modes": 3}, "sft.trainer.modes: 3 (integer); allowed: dict[str, Any] | str | None"),
        ({"seed": 3}, "sft.trainer.seed: is set by the stage itself; remove it"),
    ],
)
def test_trainer_arguments_are_checked(given: dict[str, Any], expected: str | None) -> None:
    complaint = None
    try:
        check_trainer_arguments("sft.trainer", given, Arguments, reserved={"seed"})
    except UserError as error:
        complaint = str(error)
    assert complaint == expected


def test_a_real_trainers_arguments_are_checked() -> None:
    from trl import SFTConfig

    check_trainer_arguments("sft.trainer", {"lr_scheduler_type": "linear"}, SFTConfig)
    with pytest.raises(UserError, match=r"sft\.trainer\.bf61: unknown argument; allowed: bf16"):
        check_trainer_arguments("sft.trainer", {"bf61": True}, SFTConfig)
    with pytest.raises(UserError, match=r"sft\.trainer\.logging_steps: \"often\" \(text\)"):
        check_trainer_arguments("sft.trainer", {"logging_steps": "often"}, SFTConfig)


def test_config_hash_depends_on_every_value_and_on_no_order(run_file: Path) -> None:
    run, other = load_run(run_file), load_run(run_file, ["sft.lora.r=9"])
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash(run.sft) == config_hash(load_run(run_file, ["seed=9"]).sft)
    assert config_hash(run.sft) != config_hash(other.sft)
    assert config_hash(run.sft, None) != config_hash(None, run.sft)


REWARDS = """\
name: tiny
model: {base: org/name}
ppo:
  data: {world: prompts, limit: 10}
  rewards:
    - {function: refusal, weight: 0.5}
    - function: counterfactual_penalty
      options: {of: {function: classifier, options: {model: judge, label: toxic}}, column: other}
"""


def test_rewards_without_a_reward_model_need_no_reward_section(workplace: Path) -> None:
    path = Path("configs/tiny.yaml")
    (workplace / "configs" / "judge").mkdir(parents=True)
    path.write_text(REWARDS)
    run = load_run(path)
    assert run.ppo is not None
    assert not run.ppo.uses_reward_model
    # a folder beside the YAML, also of the function that another is about
    inner = list(run.ppo.rewards[1].nested())[1]
    assert inner.options == {"model": "configs/judge", "label": "toxic"}
    assert inner.paths() == {"model": Path("configs/judge")}
    with pytest.raises(UserError, match="`ppo` needs a `reward` section"):
        load_run(path, ["ppo.rewards=[{function: reward_model}]"])
    nested = "{function: counterfactual_penalty, options: {of: {function: reward_model}}}"
    with pytest.raises(UserError, match="`ppo` needs a `reward` section"):
        load_run(path, [f"ppo.rewards=[{nested}]"])


def test_a_classifier_s_hub_id_uses_the_network(workplace: Path) -> None:
    path = Path("tiny.yaml")
    path.write_text(REWARDS.replace("org/name", "judge"))
    assert uses_network(load_run(path))  # `judge` is no folder here, so it is the hub's
    (workplace / "judge").mkdir()
    assert not uses_network(load_run(path))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ppo.rewards=[]", "ppo: rewards: none has a weight other than 0"),
        ("ppo.rewards=[{function: refusal, weight: 0}]", "rewards: none has a weight other than 0"),
        ("ppo.rewards=[{function: refusal, wieght: 1}]", "'wieght'; allowed: weight (nearest)"),
        ("ppo.rewards=[{function: refusal, weight: high}]", '"high" (text); allowed: a number'),
    ],
)
def test_rewards_that_are_mistaken_are_named(workplace: Path, override: str, expected: str) -> None:
    path = Path("tiny.yaml")
    path.write_text(REWARDS)
    with pytest.raises(UserError) as caught:
        load_run(path, [override])
    assert expected in str(caught.value)


def test_the_committed_schema_is_current(project: Path) -> None:
    committed = json.loads((project / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert committed == config_schema(), "run `make schema`"


def test_every_field_is_described() -> None:
    schema = RunConfig.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    silent = [
        f"{section['title']}.{name}"
        for section in sections
        for name, entry in section.get("properties", {}).items()
        if "description" not in entry
    ]
    assert silent == []

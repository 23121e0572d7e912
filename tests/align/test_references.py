"""What names a model: hub ids, folders, files and the folders of stages."""

import json
import shutil
from pathlib import Path

import pytest

from align.errors import UserError
from align.models import load_model
from align.references import ModelReference, relative_model, resolve_reference


class TestReference:
    def stage(self, run: Path, name: str, base: str, adapters: list[str]) -> Path:
        folder = run / name
        folder.mkdir(parents=True)
        model = {"base": base, "adapters": adapters}
        (folder / "manifest.json").write_text(json.dumps({"model": model}), "utf-8")
        return folder

    def test_a_stage_is_what_its_manifest_says(self, tmp_path: Path) -> None:
        (tmp_path / "run" / "1-pretrain" / "model").mkdir(parents=True)
        (tmp_path / "run" / "2-sft" / "adapter").mkdir(parents=True)
        for where in (tmp_path / "run", tmp_path / "moved"):
            if where.name == "moved":
                shutil.move(tmp_path / "run", where)
            else:
                self.stage(where, "4-ppo", "../1-pretrain/model", ["../2-sft/adapter", "adapter"])
                (where / "4-ppo" / "adapter").mkdir()
            assert resolve_reference(str(where / "4-ppo")) == ModelReference(
                base=str(where / "1-pretrain" / "model"),
                adapters=(str(where / "2-sft" / "adapter"), str(where / "4-ppo" / "adapter")),
            )

    def test_a_stage_on_a_hub_model(self, tmp_path: Path) -> None:
        folder = self.stage(tmp_path, "2-sft", "someone/some-model", [])
        assert resolve_reference(str(folder)).base == "someone/some-model"

    def test_what_a_stage_writes_reads_back(
        self, workplace: Path, tiny_folder: Path, adapters
    ) -> None:
        reference = ModelReference(str(tiny_folder), (str(adapters[0]),), revision="abc")
        folder = workplace / "runs" / "2-sft"
        (folder / "adapter").mkdir(parents=True)
        entry = relative_model(reference, folder, ("adapter",))
        assert not Path(entry["base"]).is_absolute()
        (folder / "manifest.json").write_text(json.dumps({"model": entry}), "utf-8")
        found = resolve_reference("runs/2-sft")
        assert Path(found.base).samefile(tiny_folder)
        assert Path(found.adapters[0]).samefile(adapters[0])
        assert found.adapters[1] == "runs/2-sft/adapter"
        assert found.revision == "abc"

    def test_folder_file_and_hub_id(self, tiny_folder: Path, tmp_path: Path) -> None:
        assert resolve_reference(str(tiny_folder)) == ModelReference(str(tiny_folder))
        (tmp_path / "a.gguf").touch()
        file = str(tmp_path / "a.gguf")
        assert resolve_reference(file) == ModelReference(file)
        assert resolve_reference("gpt2") == ModelReference("gpt2")
        hub = "HuggingFaceTB/SmolLM2-135M"
        assert resolve_reference(hub) == ModelReference(hub)

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("runs/demmo", r"no such file or folder; in runs: demo"),
            ("runs/a.gguf", r"no such file or folder; in runs: demo"),
            ("./x", r"no such file or folder"),
            ("a/b/c", r"no such file or folder; in a/b: nothing"),
            ("no model", r"no hub id"),
            ("notes.txt", r"not a model file"),
            ("runs/demo", r"no model in this folder: notes"),
            ("runs", r"no model in this folder: demo"),
        ],
    )
    def test_mistakes(self, workplace: Path, name: str, complaint: str) -> None:
        (workplace / "runs" / "demo" / "notes").mkdir(parents=True)
        (workplace / "notes.txt").touch()
        with pytest.raises(UserError, match=complaint):
            resolve_reference(name)

    def test_an_adapter_is_no_model(self, adapters) -> None:
        with pytest.raises(UserError, match="no model by itself; name its base"):
            resolve_reference(str(adapters[0]))

    @pytest.mark.parametrize(
        ("manifest", "complaint"),
        [
            ('{"model": null}', "makes no model"),
            ('{"model": {"base": "model"}}', "makes no model"),
            ("[]", "makes no model"),
            ("{", "broken manifest"),
        ],
    )
    def test_a_stage_without_a_model(self, tmp_path: Path, manifest: str, complaint: str) -> None:
        (tmp_path / "manifest.json").write_text(manifest, "utf-8")
        with pytest.raises(UserError, match=complaint):
            resolve_reference(str(tmp_path))

    def test_a_hub_model_out_of_reach(self) -> None:
        with pytest.raises(UserError, match="someone/no-model-of-this-name: cannot load the token"):
            load_model(resolve_reference("someone/no-model-of-this-name"))

"""A stage's run folder: configuration, metrics, complete checkpoints, exact resume, Ctrl-C.

    runs/NAME/STAGE/config.json                 what was asked for, with hashes of the inputs
                    metrics.jsonl               one row a step
                    checkpoints/step-000200/    a model folder that transformers opens, written atomically
                        stage.json              what made it
                        train_state/            tensors.safetensors and state.json: what resuming needs
                    profile.md, trace.json      with --profile: where the time went; with --trace-steps
                    summary.json                written last: the stage is finished

Nothing pickled is ever written or read.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructgpt.errors import CheckpointError, ConfigError, DataError, Interrupted
from instructgpt.runtime.device import peak_device_memory_mib, peak_memory_mib
from instructgpt.runtime.files import write_folder, write_json
from instructgpt.runtime.identity import RunChanged as RunChanged
from instructgpt.runtime.identity import compare, defaults_of, identity_of
from instructgpt.runtime.metrics import MetricsLog, Progress
from instructgpt.runtime.profile import Profile, Trace, phase, write_profile


class Run:
    """One stage's run folder, open. Made by `open_run`; see the module's docstring for what it holds."""

    def __init__(
        self,
        folder: Path,
        verb: str,
        identity: dict[str, Any],
        show_profile: bool = False,
        trace_steps: int = 0,
    ) -> None:
        self.folder, self.verb, self.identity = folder, verb, identity
        self.profile = Profile(exact=show_profile)
        self._trace = Trace(folder / "trace.json", trace_steps, self.profile)
        self._steps: tuple[int, int] | None = None
        self.latest: Path | None = self._latest()
        self.finished: dict[str, Any] | None = self._read_summary()
        self._state: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        if self.latest is not None and self.finished is None:
            self._state, self._tensors = _read_train_state(self.latest)
            # A kill may have come between saving and pruning.
            self._prune(self._state.get("keep"), self._state.get("spare", ()))
        self.start: int = int(self._state.get("step", 0))
        self._seconds_before = float(self._state.get("seconds", 0.0))
        self._opened = time.monotonic()
        self._stop = False
        # A Ctrl-C after should_save() said no has to wait for the next step: nothing of this one is on disk.
        self._unsaved = False
        self._save_every, self._total = 0, 0
        self._log: MetricsLog | None = None
        self._progress: Progress | None = None

    # -- resuming ------------------------------------------------------------------------------------------

    def load_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `save` was given at the latest checkpoint: `(state, tensors)`; both empty at a fresh start."""
        return self._state, self._tensors

    def _latest(self) -> Path | None:
        found = [path for path in checkpoints(self.folder) if (path / "train_state/state.json").exists()]
        return found[-1] if found else None

    def _read_summary(self) -> dict[str, Any] | None:
        path = self.folder / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    # -- the loop ------------------------------------------------------------------------------------------

    def steps(self, start: int, total: int, save_every: int = 0) -> Iterator[int]:
        """Yield step numbers `start` .. `total - 1` with a progress bar.

        After Ctrl-C (or SIGTERM) the step in hand is finished, `should_save` is true once, and then
        `Interrupted` is raised.
        """
        self._save_every, self._total = save_every, total
        self._log = MetricsLog(self.folder / "metrics.jsonl", start)
        self._progress = Progress(self.verb, total, start)
        self.profile.start()
        with _stop_signals(self._ask_to_stop):
            try:
                for step in range(start, total):
                    self._trace.step()
                    self._steps = (start + 1, step + 1)
                    yield step
                    self._progress.advance()
                    if self._stop and not self._unsaved and step + 1 < total:
                        raise Interrupted(
                            f"{self.verb} stopped after step {step + 1} of {total}, all of it saved",
                            str(self.folder),
                            "run the same command again to go on from there",
                        )
            finally:
                self.close()

    def computes(self, device: torch.device, dtype: torch.dtype) -> None:
        """What most of the stage's products are computed on and in: `mfu` is a share of the peak there."""
        self.profile.device, self.profile.dtype = device, dtype

    def timing(self) -> dict[str, float]:
        """`seconds_PHASE` and `mfu` since the row before (see `Profile.row`); `log` adds what is new."""
        return self.profile.row()

    def close(self) -> None:
        """End the progress line and the log: `steps` does it, or `open_run` where an error ends the loop."""
        self._trace.close()
        if self._progress is not None and self._log is not None:
            self._progress.close()
            self._log.close()
        self._progress = self._log = None

    def _ask_to_stop(self) -> None:
        self._stop = True

    def log(self, step: int, **metrics: Any) -> None:
        """Write one row of `metrics.jsonl`, with `timing`; `step` counts finished steps."""
        assert self._log is not None and self._progress is not None, (
            "log() belongs inside the loop over steps()"
        )
        self._log.write({"step": step, **self.timing(), **metrics})
        shown = [f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, float)][:4]
        self._progress.note = " ".join(shown)

    @property
    def seconds(self) -> float:
        """Wall time spent on this run so far, over all restarts."""
        return self._seconds_before + time.monotonic() - self._opened

    # -- checkpoints ---------------------------------------------------------------------------------------

    def should_save(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` finished steps: by schedule, at the end, after Ctrl-C."""
        due = self._save_every > 0 and step % self._save_every == 0
        due = due or step == self._total or self._stop
        self._unsaved = not due
        return due

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        tensors: Mapping[str, Tensor] | None = None,
        state: Mapping[str, Any] | None = None,
        keep: int | None = 1,
        spare: Collection[int] = (),
    ) -> Path:
        """Write checkpoint `step` atomically and return its folder.

        Args:
            write: writes the model files (and sub-folders) into the folder it is given.
            tensors, state: what `load_state` shall give back (optimizer moments; counters, JSON values).
            keep: how many of the latest checkpoints stay; None keeps all, older ones without train_state.
            spare: steps of checkpoints that stay besides, without train_state.
        """

        def fill(folder: Path) -> None:
            write(folder)
            write_json(folder / "stage.json", {**self.identity, "step": step})
            (folder / "train_state").mkdir()
            contiguous = {name: t.detach().cpu().contiguous() for name, t in (tensors or {}).items()}
            save_file(contiguous, folder / "train_state" / "tensors.safetensors")
            places = {"step": step, "keep": keep, "spare": sorted(spare)}
            write_json(
                folder / "train_state" / "state.json", {**(state or {}), **places, "seconds": self.seconds}
            )

        path = self.checkpoint(step)
        with phase("save"):
            write_folder(path, fill)
            self.latest = path
            self._prune(keep, spare)
        return path

    def checkpoint(self, step: int) -> Path:
        """The folder of checkpoint `step`."""
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def _prune(self, keep: int | None, spare: Collection[int]) -> None:
        for folder in checkpoints(self.folder)[: -(keep or 1)]:
            stays = keep is None or int(folder.name[5:]) in spare
            unwanted = folder / "train_state" if stays else folder
            if unwanted.exists():
                # Renamed first, so that a kill in the middle leaves no half checkpoint under a good name.
                trash = self.folder / "checkpoints" / f".{folder.name}.trash"
                unwanted.rename(trash)
                shutil.rmtree(trash)

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write `summary.json` (with time and peak memory added), which marks the stage as finished."""
        full = {
            "verb": self.verb,
            "out": str(self.folder),
            **summary,
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": round(peak_memory_mib(), 1),
        }
        on_device = peak_device_memory_mib()
        if on_device is not None:
            full["peak_device_memory_mib"] = round(on_device, 1)
        write_json(self.folder / "summary.json", full)
        self.finished = full
        return full

    def tell_profile(self) -> None:
        """Write profile.md of the steps of this process and show it on stderr, if there are any."""
        if self._steps is not None and self.profile.exact:
            table = write_profile(self.folder / "profile.md", self.verb, self.profile, *self._steps)
            print(f"\n{table}\n", file=sys.stderr)


@contextmanager
def open_run(out: str | Path, verb: str, config: Any, inputs: Mapping[str, str | Path]) -> Iterator[Run]:
    """Open or reopen the run folder `out` for stage `verb`.

    Args:
        config: the stage's frozen dataclass.
        inputs: name -> file or folder that the result depends on; their contents are hashed. A
            comma-separated list of files counts as all of them; an empty string as nothing.

    Raises:
        ConfigError: no folder was named.
        RunChanged: the folder holds a run with another configuration or other inputs.
    """
    if not str(out):
        raise ConfigError("no run folder was named", "--out", "give one, for example --out runs/mine/" + verb)
    folder = Path(out)
    identity = identity_of(verb, config, inputs)
    known = folder / "config.json"
    if known.exists():
        compare(json.loads(known.read_text(encoding="utf-8")), identity, folder, defaults_of(config))
        fresh = False
    else:
        write_json(known, identity)
        fresh = True
    for leftover in (folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    told = (bool(getattr(config, "profile", False)), int(getattr(config, "trace_steps", 0)))
    run = Run(folder, verb, identity, *told)
    try:
        with run.profile.active():
            yield run
    except (ConfigError, DataError, CheckpointError):
        # A mistake found before any work was done must not bind the folder to the mistaken settings.
        if fresh and run.latest is None:
            known.unlink(missing_ok=True)
        raise
    finally:
        run.close()
        run.tell_profile()


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in a run folder by their numbers: names do not sort any more from step 1,000,000 on."""
    found = (Path(folder) / "checkpoints").glob("step-*")
    numbered = {int(path.name[5:]): path for path in found if path.name[5:].isdecimal()}
    return [numbered[step] for step in sorted(numbered)]


def final_checkpoint(folder: str | Path) -> Path:
    """The model folder meant by `folder`: itself, or the checkpoint that a finished stage's summary names.

    Raises:
        CheckpointError: there is no model there.
    """
    folder = Path(folder)
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        return folder
    if list(folder.glob("model*.safetensors*")) or (folder / "adapter_config.json").exists():
        return folder
    summary = folder / "summary.json"
    if summary.exists():
        named = json.loads(summary.read_text(encoding="utf-8")).get("checkpoint")
        if named:
            return folder / named
    cure = (
        "name a checkpoint folder (with config.json and model.safetensors) or the folder of a finished stage"
    )
    what = "there is no such folder" if not folder.exists() else "no finished model is in this folder"
    raise CheckpointError(what, str(folder), cure)


def _read_train_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = checkpoint / "train_state"
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return state, load_file(folder / "tensors.safetensors")
    except Exception as error:  # the safetensors library has no exception tree of its own
        cure = f"remove {checkpoint.name} to resume from the checkpoint before it"
        raise CheckpointError(f"the training state can't be read: {error}", str(folder), cure) from error


@contextmanager
def _stop_signals(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: finish the step and save. Second Ctrl-C: stop at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        ask_to_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)

"""Solve combinations in parallel, on the workers of a run."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torchlocks.core.errors import TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.locking.environments import workers
from torchlocks.locking.options import LockOptions
from torchlocks.matrix.render import render
from torchlocks.update.candidates import Choice
from torchlocks.update.policy import Loss
from torchlocks.update.search import Attempt, Failed, Found, SearchTask, search
from torchlocks.update.spots import Spot

_PRELOAD = ("torchlocks.update.search", "torchlocks.check.repository", "rattler")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Solves combinations on the workers that `options` select. `allow` names what may be removed from a cell."""

    layout: Layout
    options: LockOptions
    progress: Progress
    allow: Collection[Loss]

    def try_all(
        self, wanted: Sequence[tuple[Spot, Sequence[Sequence[Choice]]]]
    ) -> dict[tuple[str, str], list[Found | Failed]]:
        """Solve the combinations in `wanted`, and return the results by row and platform.

        Raises the error of a task that is not about a combination.
        """
        name = uuid.uuid4().hex
        results: dict[tuple[str, str], list[Found | Failed]] = {spot.id: [] for spot, _ in wanted}
        tasks = [
            SearchTask(
                run=name,
                source=self.options.source,
                target=spot.target,
                groups=tuple(tuple(self._attempt(spot, choice) for choice in group) for group in groups),
                fewer_architectures="architecture" in self.allow,
            )
            for spot, groups in wanted
        ]
        if not tasks:
            return results
        with (
            workers(tasks, self.options, preload=_PRELOAD) as pool,
            self.progress.task("Trying combinations", total=len(tasks)) as bar,
        ):
            futures = [pool.submit(search, task) for task in tasks]
            for (spot, _), future in zip(wanted, futures, strict=True):
                result = future.result()
                if isinstance(result, TorchlocksError):
                    raise result
                results[spot.id] += result
                bar.advance(1, note=f"{spot.name} {spot.platform}")
        return results

    def _attempt(self, spot: Spot, choice: Choice) -> Attempt:
        target = choice.target(spot.target)
        return Attempt(choice=choice, target=target, rendered=render(self.layout.root / target.template, target))

"""Adding files on the nodes of a Ray cluster.

Ray Data (https://docs.ray.io/en/latest/data/data.html) runs the same functions as one process: tasks hash and tag
files, and a pool of actors, each with a separator and an encoder, embeds them. Only the process that started it writes
to the library, so that complete files are committed as they come; the work of a dead node is done again on another.
"""

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

import torch

from stemsim.embedding.workers import default_workers
from stemsim.errors import ConfigError, EmbeddingError, StemsimError
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.indexing.adding import Extraction
from stemsim.retrieval.indexing.embedding import EmbeddedFile, embed_files
from stemsim.retrieval.indexing.files import Failure, FoundFile, Prepared, PreparedFile, prepare_files

__all__ = ["RayEngine"]

_FILES_AT_ONCE: Final = 4096  # in one Ray dataset; models are loaded once for each
_FILES_PER_TASK: Final = 16
_WINDOWS_PER_TASK: Final = 64  # the most that a dead node may cost, for each of its actors
_ADDRESS: Final = "RAY_ADDRESS"
_GO_ON: Final = "Complete files are in the library; run it again to continue."


class RayEngine:
    """Adds files with Ray Data, on this machine or on a cluster; for `Library.add(engine=...)`.

    Every node needs stemsim, the weights of the models, and the files under the same paths. A Ray that is running in
    this process is used; else the cluster that the environment variable RAY_ADDRESS names; else one is started on this
    machine.

    Args:
        actors: Size of the pool; None: one for each core of the cluster but one, or one for each GPU.
        device: Where the actors compute: `cpu`, or `cuda` to give each a GPU of its own.
        batch_size: Most windows that an actor embeds at once; None: 16, or as many as fit on its GPU.
    """

    def __init__(self, *, actors: int | None = None, device: str = "cpu", batch_size: int | None = None) -> None:
        if actors is not None and actors < 1:
            raise ConfigError(f"A pool has at least 1 actor; got {actors}.")
        self.actors = actors
        self.device = device
        self.batch_size = batch_size

    @contextmanager
    def started(self, card: LibraryCard, *, listen: bool) -> Iterator[Extraction]:
        """Connect to Ray, and disconnect in the end.

        Raises:
            ConfigError: If Ray is not installed, or the library has parts that other machines cannot build.
            EmbeddingError: If Ray cannot be reached.
        """
        card.check_buildable()
        ray = _imported()
        mine = not ray.is_initialized()
        if mine:
            _connect(ray)
        try:
            yield Extraction(partial(_prepare, card, listen), partial(_embed, card, self))
        finally:
            if mine:
                ray.shutdown()


def _prepare(card: LibraryCard, listen: bool, files: Iterable[FoundFile]) -> Generator[Prepared]:
    for chunk in _chunks(files):
        tasks = [chunk[start : start + _FILES_PER_TASK] for start in range(0, len(chunk), _FILES_PER_TASK)]
        # All of them first: no other job is running then that could wait for this one and be waited for.
        yield from list(_run(_preparation, (card, listen), tasks, num_cpus=1, compute=None))


def _embed(card: LibraryCard, engine: RayEngine, files: Iterable[PreparedFile]) -> Generator[EmbeddedFile | Failure]:
    import ray

    on_gpu = torch.device(engine.device).type == "cuda"
    resource = "GPU" if on_gpu else "CPU"
    for chunk in _chunks(files):
        available = int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]
        if available < 1:
            raise ConfigError(f"The Ray cluster has no {resource}. Choose another device, or add a node that has one.")
        tasks = list(_bundles(chunk))
        # Without a core of its own, the reader of the blocks waits for ever (ray issue 44687).
        actors = min(engine.actors or (available if on_gpu else max(1, available - 1)), len(tasks))
        yield from _run(
            _embedding,
            (card, engine.device, engine.batch_size),
            tasks,
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else None,
            compute=ray.data.ActorPoolStrategy(size=actors),
        )


def _preparation(card: LibraryCard, listen: bool) -> Callable[[list[FoundFile]], Iterator[Prepared]]:
    """Return the function that prepares files on a node."""
    source, windowing = card.build_hash_source(), card.windowing
    return partial(prepare_files, source=source, windowing=windowing, listen=listen, workers=1)


def _embedding(
    card: LibraryCard, device: str, batch_size: int | None
) -> Callable[[list[PreparedFile]], Iterator[EmbeddedFile | Failure]]:
    """Load the models on a node; return the function that embeds files with them."""
    kind = torch.device(device)
    workers = default_workers(kind) if kind.type == "cuda" else 1  # an actor has one core
    embedder = card.build_embedder(device=device, batch_size=batch_size, workers=workers)
    return partial(embed_files, embedder=embedder, windowing=card.windowing)


class _Worker:
    """Makes a function on a node, and calls it as Ray Data calls: on rows of pickled lists.

    An error of ours travels as the last result of a task, since an actor that fails would take its error with it.
    """

    def __init__(self, make: Callable[..., Callable[[Any], Iterator[Any]]], arguments: tuple[Any, ...]) -> None:
        self._make = partial(make, *arguments)
        self._work: Callable[[Any], Iterator[Any]] | None = None

    def __call__(self, row: dict[str, Any]) -> list[dict[str, bytes]]:
        found: list[Any] = []
        try:
            self._work = self._work or self._make()
            # Only what this job has put there is unpickled.
            found.extend(self._work(pickle.loads(row["task"])))  # noqa: S301
        except StemsimError as error:
            found.append(error)
        except Exception as error:  # noqa: BLE001 - Ray would bury it in stacks of its own
            found.append(EmbeddingError(f"The work on a node failed: {error!r}. {_GO_ON}"))
        return [{"result": pickle.dumps(one)} for one in found]


def _run(
    make: Callable[..., Any], arguments: tuple[Any, ...], tasks: Sequence[list[Any]], **options: Any
) -> Iterator[Any]:
    """Run tasks on the cluster, each a block of its own; yield results as they come."""
    import ray

    rows = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    if options["compute"] is None:
        results = rows.flat_map(_Worker(make, arguments).__call__, **options)
    else:
        results = rows.flat_map(_Worker, fn_constructor_args=(make, arguments), **options)
    try:
        for row in results.iter_rows():
            result = pickle.loads(row["result"])  # noqa: S301 - of our own making, see above
            if isinstance(result, StemsimError):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        raise EmbeddingError(f"The job on the Ray cluster failed: {error} {_GO_ON}") from error


def _chunks(files: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(files)
    while chunk := list(islice(remaining, _FILES_AT_ONCE)):
        yield chunk


def _bundles(files: Sequence[PreparedFile]) -> Iterator[list[PreparedFile]]:
    """Yield the files of each task: as many as have some dozen windows together."""
    bundle: list[PreparedFile] = []
    for file in files:
        if sum(len(each.windows) for each in bundle) >= _WINDOWS_PER_TASK:
            yield bundle
            bundle = []
        bundle.append(file)
    yield bundle


def _imported() -> Any:
    """Import Ray, and keep its messages off the terminal and off the network."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("The engine ray needs the package ray: pip install 'stemsim[ray]'.") from error
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of our own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _connect(ray: Any) -> None:
    address = os.environ.get(_ADDRESS)
    # One core more than the machine has: the pool takes all but one.
    options: dict[str, Any] = (
        {"address": address}
        if address
        else {"address": "local", "num_cpus": (os.cpu_count() or 1) + 1, "include_dashboard": False}
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lancedb fork support")  # the forked process is replaced at once
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EmbeddingError(
            f"Ray cannot be reached at {address or 'this machine'}: {error}. Check {_ADDRESS}."
        ) from error

"""Work spread over an existing Ray cluster; the one place that knows Ray.

Every GPU of the cluster, and every node without one, gets a worker that lives as long as the work
lasts, so that what is costly to load (a base model) is loaded once by each. Nodes need Adapt and
the files that the work names; Ray's own dashboard shows what runs where.
"""

import logging
import socket
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from adapt_lora.errors import ConfigError, failure_reason

Unit = TypeVar("Unit")
Result = TypeVar("Result")
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finished(Generic[Result]):
    """How one unit of work ended."""

    index: int
    """Its place among the units."""
    result: Result | None
    """What the worker gave back; None where it failed."""
    reason: str | None = None
    """Why it failed, one sentence; None when it did not."""
    worker: str = ""
    """Address of the node it ran on."""


def spread(
    units: Sequence[Unit],
    make_worker: Callable[[], Callable[[Unit], Result]],
    *,
    address: str,
    key: Callable[[Unit], Hashable] = lambda _: None,
) -> Iterator[Finished[Result]]:
    """Do all units on a cluster, and yield each as it ends; one that fails never stops the rest.

    Args:
        units: What is to be done; pickled on their way.
        make_worker: Called once in each worker; gives the function that does a unit.
        address: HOST:PORT of the cluster's head, `ray://HOST:PORT`, or "auto" for the cluster that
            this machine belongs to.
        key: What a worker has to load for a unit; it goes on with units of its last key first.

    Raises:
        ConfigError: Ray is not installed, no cluster answers there, or it has no node to work on.
    """
    if not units:
        return
    ray = _connected(address)
    try:
        yield from _spread(ray, units, make_worker, key)
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed, so nothing can be spread over a cluster. Run "
            "`pip install 'adapt-lora[ray]'`, in the version that the cluster has."
        ) from error
    _check_answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    # Ray raises ConnectionError, RuntimeError, ValueError and errors of gRPC here.
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise ConfigError(
            f"No Ray cluster can be used at {address}: {lines[0][:300]} Start one with "
            "`ray start --head`, or check the address with `ray status`."
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """A wrong address is said within seconds; Ray itself would wait for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise ConfigError(
            f"--ray {address}: not an address. Give HOST:PORT of the cluster's head, "
            "ray://HOST:PORT or auto."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({error}). Start one with `ray start --head`, or "
            "check the address with `ray status`."
        ) from error


class _Worker(Generic[Unit, Result]):
    """Lives in a process of the cluster; makes what it works with at the first unit."""

    def __init__(self, make: Callable[[], Callable[[Unit], Result]]) -> None:
        self._make = make
        self._work: Callable[[Unit], Result] | None = None

    def do(self, unit: Unit) -> tuple[Result | None, str | None]:
        # An error goes back as its sentence: its class may not survive the journey.
        try:
            if self._work is None:
                self._work = self._make()
            return self._work(unit), None
        except Exception as error:
            return None, failure_reason(error)


def _spread(
    ray: Any,
    units: Sequence[Unit],
    make_worker: Callable[[], Callable[[Unit], Result]],
    key: Callable[[Unit], Hashable],
) -> Iterator[Finished[Result]]:
    places = [place for node in ray.nodes() if node["Alive"] for place in _places(node)]
    if not places:
        raise ConfigError("The Ray cluster has no node with a processor to work on.")
    actor = ray.remote(_Worker)
    left = dict(enumerate(units))
    running: dict[Any, tuple[int, dict[str, Any], Any]] = {}

    def give(place: dict[str, Any], worker: Any, last: Hashable) -> None:
        index = next((i for i, unit in left.items() if key(unit) == last), next(iter(left)))
        running[worker.do.remote(left.pop(index))] = (index, place, worker)

    for place in places[: len(units)]:
        give(place, actor.options(**_options(ray, place)).remote(make_worker), _Unlike())
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        index, place, worker = running.pop(done)
        node = str(place["node"]["NodeManagerAddress"])
        try:
            result, reason = ray.get(done)
        # The process or its node is gone; a unit that kills its worker must not do so again.
        except ray.exceptions.RayError as error:
            first = (str(error).strip().splitlines() or [""])[0]
            result, reason = None, f"Its worker on {node} died ({type(error).__name__}: {first})."
            worker = None
            if not any(n["NodeID"] == place["node"]["NodeID"] and n["Alive"] for n in ray.nodes()):
                place = {}
        yield Finished(index, result, reason, node)
        if left and place:
            if worker is None:
                worker = actor.options(**_options(ray, place)).remote(make_worker)
            give(place, worker, key(units[index]))
    # Reached with work left only where every node is gone.
    for index in left:
        yield Finished(index, None, "No node of the Ray cluster is left to do it.")


class _Unlike:
    """The key of a worker that has done nothing yet: no unit's key is equal to it."""


def _places(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One place per GPU of a node, or one for the node."""
    has = node["Resources"]
    n_gpus = int(has.get("GPU", 0))
    if n_gpus:
        return [{"node": node, "num_gpus": 1, "num_cpus": 0}] * n_gpus
    return [{"node": node, "num_cpus": has["CPU"]}] if has.get("CPU", 0) >= 1 else []


def _options(ray: Any, place: Mapping[str, Any]) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(place["node"]["NodeID"], soft=False)
    asked = {name: value for name, value in place.items() if name != "node"}
    return {**asked, "scheduling_strategy": pinned, "max_restarts": 0}

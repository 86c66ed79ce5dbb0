"""Ray, and what a run can have of it: a cluster that is there, or one of the run's own."""

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from virnucpro.errors import UserError

CONNECT_SECONDS = 10.0
LOCAL_OBJECT_STORE = 2**28  # bytes; only the blocks in flight pass through it
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # RFC 9113, 3.4: no settings
HTTP2_ANSWER = re.compile(rb"...\x04.\0{4}", re.DOTALL)  # as a frame of settings begins


class RayError(UserError, RuntimeError):
    """Ray is missing, cannot be reached, or does not have what was asked for."""


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or to one of this run's own."""
    try:
        import ray
    except ImportError as error:
        raise RayError(
            f"--ray needs Ray, which cannot be imported ({error}): pip install 'virnucpro[ray]'"
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        cores = max(workers or 1, os.cpu_count() or 1)
        options |= {
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE,
        }
    else:
        check_reachable(address)
    try:
        with keeping_signal_handlers():
            ray.init(address, **options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and errors of gRPC
        if address == "local":
            raise RayError(f"cannot start Ray: {error}") from error
        raise RayError(
            f"cannot use Ray at {address}: {error}: all its nodes must have Ray {ray.__version__}, as this one; "
            "where they ask for a token, set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as on them"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """Ray puts handlers of its own in place of the program's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_reachable(address: str) -> None:
    """Raise RayError unless something that speaks HTTP/2, as Ray does, listens at ``host:port``, or for ``auto``
    at what ``RAY_ADDRESS`` names; Ray itself would try for minutes.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if "://" in address:
        raise RayError(
            f"--ray {address}: give the address of the head node, host:6379, and run on a node of the cluster"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise RayError(
            f"--ray {address}: an address is host:port, of the node that was started with `ray start --head`"
        )
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            there.sendall(HTTP2_GREETING)
            if not HTTP2_ANSWER.match(there.makefile("rb").read(9)):
                raise ConnectionError("what listens there is not Ray")
    except OSError as error:
        raise RayError(
            f"no Ray at {address} ({error}): start it there with `ray start --head`, or leave out the address"
        ) from error


def resources(ray: Any, device: str, workers: int | None) -> tuple[str, int]:
    """``cuda`` or ``cpu``, and how many workers; RayError where the cluster has too few of them."""
    if device not in ("auto", "cuda", "cpu"):
        raise RayError(f"--device {device}: with --ray it is cuda or cpu, and Ray chooses which GPU")
    total = ray.cluster_resources()
    gpus, cores = int(total.get("GPU", 0)), int(total.get("CPU", 0))
    if device == "cuda" and not gpus:
        raise RayError(
            "the Ray cluster has no GPU: start its nodes with `ray start --num-gpus`, or use --device cpu"
        )
    kind = "cuda" if gpus and device != "cpu" else "cpu"
    most, unit = (gpus, "GPUs") if kind == "cuda" else (cores, "CPU cores")
    count = workers or (gpus if kind == "cuda" else 1)
    if count > most:
        raise RayError(f"{count} workers need as many {unit}, and the Ray cluster has {most}")
    return kind, count

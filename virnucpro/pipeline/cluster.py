"""Ray, and what a run can have of it: a cluster that is there, or one of the run's own."""

import contextlib
import importlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from virnucpro.errors import UserError

CONNECT_SECONDS = 10.0
FIRST_WITH_TOKENS = "2.52"
"""The first Ray that asks for a token (docs.ray.io, "Ray token authentication")."""

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable for whether it takes part in a cluster of several machines, whatever its name says.

With 0 the node's address is the loopback's, and everything binds to it. Else Ray puts the machine's own address in
the place of ``_node_ip_address="127.0.0.1"``.
"""

SET_BY_RAY = ("RAY_", "PYTHONBREAKPOINT")

LOCAL_OBJECT_STORE = 2**28  # bytes; only the blocks in flight pass through it
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # RFC 9113, 3.4: no settings
HTTP2_ANSWER = re.compile(rb"...\x04.\0{4}", re.DOTALL)  # as a frame of settings begins


class RayError(UserError, RuntimeError):
    """Ray is missing, cannot be reached, or does not have what was asked for."""


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or to one of this run's own.

    That one listens on the loopback's address only, and asks for a token that nobody else has.
    """
    with local_environment() if address == "local" else contextlib.nullcontext():
        try:
            import ray
        except ImportError as error:
            raise RayError(
                f"--ray needs Ray, which cannot be imported ({error}): pip install 'virnucpro[ray]'"
            ) from error
        with started(ray, address, workers):
            yield ray


@contextlib.contextmanager
def local_environment() -> Iterator[None]:
    """The variables of a Ray of this run's own; afterwards all that Ray sets are as before."""
    before = {name: value for name, value in os.environ.items() if name.startswith(SET_BY_RAY)}
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), LOOPBACK_ONLY: "0"}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(SET_BY_RAY)]:
            del os.environ[name]
        os.environ |= before
        if "ray" in sys.modules:
            with contextlib.suppress(ImportError, AttributeError):
                read_environment()


def read_environment() -> None:
    """Have Ray, which may have been imported before, read its variables again; AttributeError without tokens."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    core: Any = importlib.import_module("ray._raylet")
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(LOOPBACK_ONLY, sys.platform not in ("darwin", "win32"))
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def asks_for_token() -> bool:
    """Whether a Ray that is started now does."""
    try:
        read_environment()
        core: Any = importlib.import_module("ray._raylet")
        return bool(core.get_authentication_mode() == core.AuthenticationMode.TOKEN)
    except (ImportError, AttributeError):
        return False


@contextlib.contextmanager
def started(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    """Connected, and in the end shut down."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        if ray.is_initialized():
            raise RayError(
                "this process uses Ray already: call ray.shutdown(), or give the address of that cluster"
            )
        if not asks_for_token():
            raise RayError(
                f"Ray {ray.__version__} asks for no token, so whoever reaches it could run programs here: "
                f"pip install 'ray>={FIRST_WITH_TOKENS}'"
            )
        cores = max(workers or 1, os.cpu_count() or 1)
        options |= {
            "num_cpus": cores,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
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
        yield
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


def check_local(device: str, workers: int | None) -> None:
    """Raise RayError where this machine has too little for so many workers, before anything is started."""
    import torch

    check_device(device)
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not gpus:
        raise RayError("this machine has no GPU that PyTorch sees: use --device cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most, unit = (gpus, "GPU") if gpus else (cores, "CPU core")
    if workers is not None and workers > most:
        raise RayError(
            f"{workers} workers need as many {unit}s, and this machine has {most}: use --workers {most} or fewer"
        )


def check_device(device: str) -> None:
    """Raise RayError for a device that workers cannot have."""
    if device not in ("auto", "cuda", "cpu"):
        raise RayError(f"--device {device}: with --ray it is cuda or cpu, and Ray chooses which GPU")


def resources(ray: Any, device: str, workers: int | None) -> tuple[str, int]:
    """``cuda`` or ``cpu``, and how many workers; RayError where the cluster has too few of them."""
    check_device(device)
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

"""A session's tensors, by the keys that the notebook gave them, on one device; and the thread,
beside TVM's RPC, through which they come and go."""

from __future__ import annotations

import contextlib
import hmac
import math
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.targets.devices.base import BeyondDevice, Device, HostDevice, SharedDevice, size_of
from tapml_nb.targets.server.read_only import ReadOnly
from tapml_nb.targets.server.staging import Bytes, Staging
from tapml_nb.targets.wire.cuda import aligned
from tapml_nb.targets.wire.envelope import failure
from tapml_nb.targets.wire.errors import NoRoom, NoTensor
from tapml_nb.targets.wire.handshake import CHANNEL_SOCKET, Receiver
from tapml_nb.targets.wire.pages import LEAST, Pages, fill_from
from tapml_nb.targets.wire.tensor_channel import (
    receive_data,
    receive_header,
    send_message,
    skip,
    tune,
)


def allocate(device: Device, shape: Sequence[int], dtype: str) -> Any:
    """A tensor, uninitialised.  BeyondDevice: the device has no such dtype, or can never have it
    that large; NoRoom: there is no room for it now; ConnectionError: it is out of reach."""
    try:
        return device.new(shape, dtype)
    except (BeyondDevice, ConnectionError):
        raise
    except (TypeError, ValueError) as error:
        raise BeyondDevice(str(error)) from None
    except Exception:  # each driver says in its own words that it is full
        size = math.prod(shape) * np_dtype(dtype).itemsize
        raise NoRoom(size, device.capacity()) from None


class TensorMemory:
    """Tensors by key, on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._read_only = ReadOnly()
        self._tensors: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        try:
            return self._tensors[key]
        except KeyError:
            raise NoTensor(f"no tensor {key!r} is resident on the target") from None

    def __setitem__(self, key: str, tensor: Any) -> None:
        self._tensors[key] = tensor

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def put(
        self, key: str, shape: Sequence[int], dtype: str, receive: Callable[[np.ndarray], None]
    ) -> None:
        """Make a tensor (see :func:`allocate`) of the bytes that ``receive`` fills in, straight in
        place where it can.  A large one may only be read, where the device has a way for that."""
        if self._has_pages(_size(shape, dtype)):
            pages = self._pages(_size(shape, dtype))
            receive(np.asarray(pages))
            self._tensors[key] = self._locked(pages, shape, dtype)
            return
        tensor = allocate(self.device, shape, dtype)
        if self.device.on_host:
            receive(self.device.read(tensor))
        else:
            data = np.empty(size_of(tensor), np.uint8)
            receive(data)
            self.device.write(tensor, data)
        self._tensors[key] = tensor

    def put_whole(self, key: str, shape: Sequence[int], dtype: str, data: Bytes) -> None:
        """The same of memory that :meth:`room` gave, without a copy where it can.  ValueError: it
        has more bytes, or fewer."""
        size = np.asarray(data).size
        if size != _size(shape, dtype):
            raise ValueError(f"{size} bytes for a tensor of {_size(shape, dtype)}")
        if isinstance(data, Pages):
            self._tensors[key] = self._locked(data, shape, dtype)
        else:
            self.put(key, shape, dtype, lambda into: np.copyto(into, data))

    def room(self, size: int) -> Bytes:
        """Memory of this process for the bytes of a tensor; NoRoom if there is none."""
        try:
            return self._pages(size) if self._has_pages(size) else np.empty(size, np.uint8)
        except MemoryError:
            raise NoRoom(size, self.device.capacity()) from None

    def put_file(self, key: str, shape: Sequence[int], dtype: str, descriptor: int) -> None:
        """The same of a file's bytes, without a copy where it can.  ValueError: it has more or
        less."""
        size = _size(shape, dtype)
        if os.fstat(descriptor).st_size != size:
            raise ValueError(f"a file of {os.fstat(descriptor).st_size} bytes for {size}")
        if self._has_pages(size):
            with contextlib.suppress(OSError):  # a process may have so many maps and no more
                self._tensors[key] = self._locked(Pages(size, descriptor), shape, dtype)
                return
        self.put(key, shape, dtype, lambda data: fill_from(descriptor, memoryview(data)))

    def _has_pages(self, size: int) -> bool:
        return self.device.on_host and size >= LEAST

    def _pages(self, size: int) -> Pages:
        try:
            return Pages(size)
        except OSError:
            raise NoRoom(size, self.device.capacity()) from None

    def _locked(self, pages: Pages, shape: Sequence[int], dtype: str) -> Any:
        """A tensor of pages that are full, and are to be read only."""
        assert isinstance(self.device, HostDevice)
        try:
            tensor = self.device.over(np.asarray(pages), shape, dtype)
        except (TypeError, ValueError) as error:
            raise BeyondDevice(str(error)) from None
        self._read_only.lock(pages)
        return tensor

    def is_read_only(self, key: str) -> bool:
        """Whether a tensor that is written to is found by :meth:`drop_written`."""
        return self[key] in self._read_only

    def watching(self, inputs: Sequence[Any]) -> AbstractContextManager[None]:
        """Run a kernel inside that has these for inputs."""
        return self._read_only.watching(inputs)

    def overwrite(self, tensor: Any, data: np.ndarray) -> None:
        """Set a tensor's bytes in a kernel's stead, which has written to a copy."""
        self._read_only.write(tensor)
        self.device.write(tensor, data)

    def drop_written(self) -> tuple[str, ...]:
        """Drop the tensors that may only be read, and that kernels have written to; their keys."""
        written = self._read_only.written()
        if not written:  # as after almost every call: there are many tensors to look through
            return ()
        keys = [key for key, one in self._tensors.items() if one.data_ptr() in written]
        self.drop(keys)
        return tuple(keys)

    def take(self, shown: Sequence[Mapping[str, Any]]) -> None:
        """Make tensors of what is in the window to the notebook."""
        made = {one["key"]: allocate(self.device, one["shape"], one["dtype"]) for one in shown}
        starts = [one["start"] for one in shown]
        self._shared().from_window(list(zip(made.values(), starts, strict=True)))
        self._tensors.update(made)

    def show(self, keys: Sequence[str], size: int) -> dict[str, Any]:
        """Put as many tensors into the window, which has so many bytes, as have room there: where
        each is, what all together would take, and the largest."""
        tensors = [self[key] for key in keys]
        sizes = [aligned(size_of(tensor)) for tensor in tensors]
        *starts, whole = accumulate(sizes, initial=0)
        count = sum(start + needed <= size for start, needed in zip(starts, sizes, strict=True))
        fitting = list(zip(tensors, starts, strict=True))[:count]
        self._shared().to_window(fitting)
        shown = [
            {
                "start": start,
                "end": start + size_of(tensor),
                "shape": [int(n) for n in tensor.shape],
                "dtype": str(tensor.dtype),
            }
            for tensor, start in fitting
        ]
        return {"shown": shown, "size": whole, "largest": max(sizes)}

    def open_window(self, handle: str) -> None:
        """Open the window to the notebook; ValueError if the device has none."""
        self._shared().open_window(handle)

    def _shared(self) -> SharedDevice:
        if not isinstance(self.device, SharedDevice):
            raise ValueError("this device shares no memory with the notebook")
        return self.device

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor as an array; on the host without a copy."""
        shape = tuple(int(n) for n in tensor.shape)
        return self.device.read(tensor).view(np_dtype(str(tensor.dtype))).reshape(shape)

    def drop(self, keys: Sequence[str]) -> None:
        """Forget tensors; keys that are not there are fine."""
        for key in keys:
            self._tensors.pop(key, None)

    def held(self) -> int:
        """Bytes of all tensors; memory under several keys counts once."""
        return sum(dict(map(self.device.owner, list(self._tensors.values()))).values())


class ChannelServer:
    """The target's end of the tensor channel: a thread that serves one connection."""

    def __init__(self, memory: TensorMemory, folder: Path, token: str, *, same_host: bool) -> None:
        """Wait in the folder, which is the process's current one, for the connection.
        ``same_host``: whether tensors may come in files of the client's."""
        self._memory = memory
        self._staging = Staging(memory.room)
        self._same_host = same_host
        self._folder = folder
        self._token = token
        self._arrivals = Receiver(CHANNEL_SOCKET)
        threading.Thread(target=self._serve, name="tapml-tensors", daemon=True).start()

    def _serve(self) -> None:
        connection = self._admit()
        with connection, contextlib.suppress(OSError):
            tune(connection)
            send_message(connection, {"ok": True})
            while True:
                self._answer(connection, receive_header(connection))

    def _admit(self) -> socket.socket:
        """The first connection that knows the token (the listener lets no others come here)."""
        while True:
            token, connection = self._arrivals.receive()
            if hmac.compare_digest(token, self._token.encode()):
                self._arrivals.close()
                return connection
            connection.close()

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Do what a request asks for; an error is an answer, and the connection stays in step.
        ConnectionError if what came is not what was sent."""
        size, checked = request.get("size", 0), request.get("checked", False)
        unread = size
        data: Any = b""
        answer: dict[str, Any] = {}

        def receive_whole(into: memoryview) -> None:
            nonlocal unread
            unread = 0
            receive_data(connection, into, checked=checked)

        try:
            if request["do"] == "window":
                self._memory.open_window(request["handle"])
            elif request["do"] == "take":
                self._memory.take(request["tensors"])
            elif request["do"] == "put" and "path" in request:
                answer = {"taken": self._take(request)}
            elif request["do"] == "put":

                def receive(data: np.ndarray) -> None:
                    if data.size != size:
                        raise ValueError(f"{size} bytes for a tensor of {data.size}")
                    receive_whole(memoryview(data))

                self._memory.put(request["key"], request["shape"], request["dtype"], receive)
            elif request["do"] == "piece":
                place = request["key"], request["whole"], request["at"], size
                receive_whole(memoryview(self._staging.place(*place)))
            elif request["do"] == "keep":
                key, shape, dtype = request["key"], request["shape"], request["dtype"]
                whole = self._staging.take(key, request["sum"])
                if whole is not None:
                    self._memory.put_whole(key, shape, dtype, whole)
                answer = {"kept": whole is not None}
            elif request["do"] == "forget":
                self._staging.forget(request["keys"])
            elif request["do"] == "file":
                content = bytearray(size)
                receive_whole(memoryview(content))
                with (self._folder / Path(request["name"]).name).open("xb") as file:
                    file.write(content)  # "x": rewriting a mapped library would kill its user
            elif request["do"] == "show":
                answer = self._memory.show(request["keys"], request["window"])
            else:
                tensor = self._memory[request["key"]]
                answer = {"shape": [int(n) for n in tensor.shape], "dtype": str(tensor.dtype)}
                answer["size"] = size_of(tensor)
                if request.get("look") and self._memory.device.on_host and answer["size"] >= LEAST:
                    answer["address"] = tensor.data_ptr()
                else:
                    data = memoryview(self._memory.device.read(tensor))
        except ConnectionError:
            raise
        except Exception as error:
            answer = failure(error)
        if unread:
            skip(connection, unread + 4 * checked)
        answer["number"] = request["number"]
        sealed = checked and request["do"] == "get" and "error" not in answer
        send_message(connection, answer, data, checked=sealed)

    def _take(self, request: dict[str, Any]) -> bool:
        """Make a tensor of a file of the client's; whether that can be opened."""
        if not self._same_host:
            raise ValueError("no client of this machine")
        try:
            descriptor = os.open(request["path"], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            place = request["key"], request["shape"], request["dtype"]
            self._memory.put_file(*place, descriptor)
        finally:
            os.close(descriptor)
        return True


def _size(shape: Sequence[int], dtype: str) -> int:
    """A tensor's bytes; BeyondDevice if there is no such dtype."""
    try:
        return math.prod(shape) * np_dtype(dtype).itemsize
    except TypeError as error:
        raise BeyondDevice(str(error)) from None

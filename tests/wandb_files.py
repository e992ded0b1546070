"""Reader of the files that W&B writes offline."""

import struct


def records(path):
    """Yield the records of an offline run of W&B: a log in the format of LevelDB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768  # of the block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            return  # W&B is still writing it
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""

"""H.264 headers, read as far as it takes to know which frames a P picture may refer to.

FFmpeg exports where a block's reference lies, but not in which frame. That follows from the slice header and the
history of reference frames: section 7.3 (syntax), 8.2.4 (reference lists) and 8.2.5 (marking) of ITU-T H.264.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from motiontune.errors import MotiontuneError


SLICE, PARTITIONS, IDR_SLICE, SPS, PPS = 1, (2, 3, 4), 5, 7, 8
# Slice headers are short; a header with many prediction weights still fits into the second
HEADER_BYTES = (40, 400)
# reading a bit takes longer in a longer unit: parameter sets have some hundred bytes, and at most some thousand
SET_BYTES = 4096
# profiles whose sequence header has chroma format, bit depth and scaling lists
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
# more reference pictures than any memory holds: once they have passed, what was before is forgotten
RENEWED = 17


class HeaderError(MotiontuneError):
    """A header that ends early or uses a feature that is not followed here."""


class BitReader:
    """Reads bits, most significant first, from an escaped NAL unit without its first byte."""

    def __init__(self, escaped: bytes) -> None:
        payload = escaped.replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._bits = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise HeaderError("a header ends early")
        return (self._bits >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned Exp-Golomb number."""
        rest = self._bits & ((1 << self._left) - 1)
        zeros = self._left - rest.bit_length()
        if zeros > 32 or not rest:
            raise HeaderError("a header ends early or is damaged")
        return self.u(2 * zeros + 1) - 1

    def se(self) -> int:
        """A signed Exp-Golomb number."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


@dataclass(frozen=True)
class Sequence:
    """The fields of a sequence parameter set, under their names in the standard."""

    chroma_array_type: int
    separate_colour_plane: bool
    frame_num_bits: int
    poc_type: int
    poc_lsb_bits: int
    delta_poc_always_zero: bool
    max_num_ref_frames: int
    frame_mbs_only: bool
    mbaff: bool
    crop: tuple[int, int]  # pixels that are cut off at the left and at the top


@dataclass(frozen=True)
class Picture:
    """The fields of a picture parameter set, under their names in the standard."""

    sequence: int
    bottom_field_poc: bool
    num_ref_idx: tuple[int, int]
    weighted_pred: bool
    weighted_bipred: int
    redundant_pic_cnt: bool


@dataclass(frozen=True)
class Slice:
    """The fields of a slice header.

    Args:
        kind: "P", "B" or "I" (SP and SI included).
        idr: whether the picture empties the reference memory.
        reference: whether later pictures may refer to this one (`nal_ref_idc`).
        field: whether it is one field of an interlaced picture.
        frame_num: `frame_num`.
        num_ref_idx: number of entries in list 0.
        changes: operations that reorder the lists, (operation, number) each.
        marking: operations on the reference memory, (operation, number) each; None for the sliding window.
        sequence: the sequence parameter set in force.
    """

    kind: str
    idr: bool
    reference: bool
    field: bool
    frame_num: int
    num_ref_idx: int
    changes: tuple[tuple[int, int], ...]
    marking: tuple[tuple[int, int], ...] | None
    sequence: Sequence


@dataclass(frozen=True)
class PictureRefs:
    """What one coded picture may refer to.

    Args:
        kind: "I", "P" or "B": the most general of its slices.
        reference: whether later pictures may refer to it.
        interlaced: whether it is a field, or may mix fields and frames.
        candidates: the pictures that it may refer to, by their number in the order of decoding; nearest in the list
            first in P pictures, in any order in B pictures, whose lists begin with what is shown next to them; None
            where they cannot be known.
    """

    kind: str
    reference: bool
    interlaced: bool
    candidates: tuple[int, ...] | None


def parse_sps(nal: bytes) -> tuple[int, Sequence]:
    """Parse a sequence parameter set (NAL unit with its first byte): (its id, its fields)."""
    bits = BitReader(nal[1:])
    profile = bits.u(8)
    bits.u(16)
    number = bits.ue()
    chroma, separate = 1, False
    if profile in HIGH_PROFILES:
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)  # bit depths, lossless flag
        if bits.u(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.ue() + 4
    poc_type = bits.ue()
    poc_lsb_bits, always_zero = 0, False
    if poc_type == 0:
        poc_lsb_bits = bits.ue() + 4
    elif poc_type == 1:
        always_zero = bool(bits.u(1))
        bits.se(), bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()
    max_num_ref_frames = bits.ue()
    bits.u(1), bits.ue(), bits.ue()  # gaps allowed, width, height
    frame_mbs_only = bool(bits.u(1))
    mbaff = not frame_mbs_only and bool(bits.u(1))
    bits.u(1)  # direct 8x8 inference
    left = top = 0
    if bits.u(1):
        left, _, top, _ = (bits.ue() for _ in range(4))
        left *= 2 if chroma in (1, 2) else 1
        top *= (2 if chroma == 1 else 1) * (1 if frame_mbs_only else 2)
    if frame_num_bits > 16 or poc_lsb_bits > 16 or max_num_ref_frames > 16 or chroma > 3 or number > 31:
        raise HeaderError("a sequence header is damaged")
    if max(left, top) >= 1 << 16:
        raise HeaderError("a sequence header is damaged")
    return number, Sequence(
        0 if separate else chroma,
        separate,
        frame_num_bits,
        poc_type,
        poc_lsb_bits,
        always_zero,
        max_num_ref_frames,
        frame_mbs_only,
        mbaff,
        (left, top),
    )


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def parse_pps(nal: bytes) -> tuple[int, Picture]:
    """Parse a picture parameter set (NAL unit with its first byte): (its id, its fields)."""
    bits = BitReader(nal[1:])
    number, sequence = bits.ue(), bits.ue()
    bits.u(1)  # entropy coding
    bottom_field_poc = bool(bits.u(1))
    if bits.ue():
        raise HeaderError("slice groups are not followed")
    if number > 255:
        raise HeaderError("a picture header is damaged")
    num_ref_idx = (bits.ue() + 1, bits.ue() + 1)
    weighted_pred, weighted_bipred = bool(bits.u(1)), bits.u(2)
    bits.se(), bits.se(), bits.se(), bits.u(2)  # quantisers, chroma offset, deblocking, constrained intra
    return number, Picture(sequence, bottom_field_poc, num_ref_idx, weighted_pred, weighted_bipred, bool(bits.u(1)))


def parse_slice(nal: bytes, pictures: dict[int, Picture], sequences: dict[int, Sequence]) -> Slice:
    """Parse the header of a slice (NAL unit with its first byte)."""
    with contextlib.suppress(HeaderError):
        return _parse_slice(nal[: HEADER_BYTES[0]], pictures, sequences)
    return _parse_slice(nal[: HEADER_BYTES[1]], pictures, sequences)


def _parse_slice(nal: bytes, pictures: dict[int, Picture], sequences: dict[int, Sequence]) -> Slice:
    idr, reference = nal[0] & 31 == IDR_SLICE, bool(nal[0] & 0x60)
    bits = BitReader(nal[1:])
    bits.ue()  # first macroblock
    kind = "PBIPI"[bits.ue() % 5]
    picture = pictures.get(bits.ue())
    sequence = sequences.get(picture.sequence) if picture else None
    if picture is None or sequence is None:
        raise HeaderError("a slice names a header that is missing")
    if sequence.separate_colour_plane:
        bits.u(2)
    frame_num = bits.u(sequence.frame_num_bits)
    field = not sequence.frame_mbs_only and bool(bits.u(1))
    if field:
        bits.u(1)
    if idr:
        bits.ue()
    if sequence.poc_type == 0:
        bits.u(sequence.poc_lsb_bits)
        if picture.bottom_field_poc and not field:
            bits.se()
    elif sequence.poc_type == 1 and not sequence.delta_poc_always_zero:
        bits.se()
        if picture.bottom_field_poc and not field:
            bits.se()
    if picture.redundant_pic_cnt:
        bits.ue()
    if kind == "B":
        bits.u(1)  # direct mode
    counts = picture.num_ref_idx
    if kind != "I" and bits.u(1):
        counts = (bits.ue() + 1, bits.ue() + 1 if kind == "B" else counts[1])
    if max(counts) > 32:
        raise HeaderError("a slice header is damaged")
    changes = _list_changes(bits) if kind != "I" else ()
    if kind == "B":
        changes += _list_changes(bits)
    if (kind == "P" and picture.weighted_pred) or (kind == "B" and picture.weighted_bipred == 1):
        _skip_weights(bits, counts if kind == "B" else counts[:1], bool(sequence.chroma_array_type))
    marking = _marking(bits, idr) if reference else None
    return Slice(kind, idr, reference, field, frame_num, counts[0], changes, marking, sequence)


def _list_changes(bits: BitReader) -> tuple[tuple[int, int], ...]:
    if not bits.u(1):
        return ()
    changes: list[tuple[int, int]] = []
    while (operation := bits.ue()) != 3:
        if operation > 2 or len(changes) > 66:
            raise HeaderError("a slice header is damaged or of a multi-view stream")
        changes.append((operation, bits.ue()))
    return tuple(changes)


def _skip_weights(bits: BitReader, counts: tuple[int, ...], chroma: bool) -> None:
    bits.ue()
    if chroma:
        bits.ue()
    for count in counts:
        for _ in range(count):
            if bits.u(1):
                bits.se(), bits.se()
            if chroma and bits.u(1):
                bits.se(), bits.se(), bits.se(), bits.se()


def _marking(bits: BitReader, idr: bool) -> tuple[tuple[int, int], ...] | None:
    """The operations on the reference memory; an IDR picture that becomes long-term reads as operation 6."""
    if idr:
        bits.u(1)
        return ((6, 0),) if bits.u(1) else None
    if not bits.u(1):
        return None
    marking: list[tuple[int, int]] = []
    while operation := bits.ue():
        if operation > 6 or len(marking) > 66:
            raise HeaderError("a slice header is damaged")
        marking.append((operation, bits.ue() if operation != 5 else 0))
        if operation == 3:
            bits.ue()
    return tuple(marking)


def split_nals(data: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet, each with its first byte.

    Args:
        data: the packet.
        length_size: bytes of the length before each unit (mp4, Matroska); 0 for start codes (Annex B).
    """
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            if size:
                yield data[at : at + size]
            at += size
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 : following if following >= 0 else None]
        if unit:
            yield unit
        at = following


def split_extradata(extradata: bytes | None) -> tuple[int, list[bytes]]:
    """The size of a NAL unit's length in packets (0 for start codes), and the parameter sets in the extradata."""
    data = extradata or b""
    if len(data) < 7 or data[0] != 1:
        return 0, list(split_nals(data, 0))
    units, at = [], 5
    for count_mask in (31, 255):  # first the sequence, then the picture parameter sets, each with their number
        count, at = int.from_bytes(data[at : at + 1], "big") & count_mask, at + 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            units.append(data[at + 2 : at + 2 + size])
            at += 2 + size
    return (data[4] & 3) + 1, [unit for unit in units if unit]


class ReferenceTracker:
    """Follows a stream's packets in the order of decoding, to find what each picture may refer to.

    Long-term references are not followed: after one, nothing is known until the next IDR picture. After a gap, or
    where a stream starts without an IDR picture, nothing is known until the whole reference memory has been renewed.

    Args:
        extradata: the decoder's extradata (avcC, or Annex B, or nothing).
    """

    def __init__(self, extradata: bytes | None) -> None:
        self.sequences: dict[int, Sequence] = {}
        self.pictures: dict[int, Picture] = {}
        self._length_size, units = split_extradata(extradata)
        self._short: list[tuple[int, int]] = []  # (frame_num, number of the picture), in the order of decoding
        self._last_frame_num = 0
        self._uncertain = RENEWED  # reference pictures still to pass until the memory's contents are certain
        self._long_term = False
        for unit in units:
            self._parameter_set(unit)

    @property
    def crop(self) -> tuple[int, int]:
        """Pixels that the newest sequence header cuts off at the left and at the top: vectors count from before."""
        return next(reversed(self.sequences.values())).crop if self.sequences else (0, 0)

    def add(self, packet: bytes, number: int) -> PictureRefs | None:
        """Take the next packet; None where it holds no picture that can be read.

        Args:
            packet: the packet's bytes.
            number: a number for its picture, to be returned as a candidate of later ones.
        """
        try:
            slices = self._slices(packet)
        except (HeaderError, IndexError):
            self._uncertain = RENEWED
            return None
        if not slices:
            return None
        first = slices[0]
        self._start(first)
        lists = [self._references(header) for header in slices if header.kind != "I"]
        if self._uncertain or self._long_term or any(entries is None for entries in lists):
            candidates = None
        else:
            candidates = tuple(dict.fromkeys(entry for entries in lists for entry in entries or ()))
        if first.reference:
            self._mark(first, number)
        kinds = {header.kind for header in slices}
        kind = "B" if "B" in kinds else "P" if "P" in kinds else "I"
        interlaced = any(header.field or header.sequence.mbaff for header in slices)
        return PictureRefs(kind, first.reference, interlaced, candidates)

    def _parameter_set(self, unit: bytes) -> None:
        unit = unit[:SET_BYTES]
        try:
            if unit[0] & 31 == SPS:
                number, sequence = parse_sps(unit)
                self.sequences[number] = sequence
            elif unit[0] & 31 == PPS:
                number, picture = parse_pps(unit)
                self.pictures[number] = picture
        except HeaderError:
            pass  # slices that need it will find it missing

    def _slices(self, packet: bytes) -> list[Slice]:
        slices = []
        for unit in split_nals(packet, self._length_size):
            kind = unit[0] & 31
            if kind in (SPS, PPS):
                self._parameter_set(unit)
            elif kind in PARTITIONS:
                raise HeaderError("data partitions are not followed")
            # the standard forbids IDR slices that are no reference; files are around whose SEI lacks its first byte
            elif kind == SLICE or kind == IDR_SLICE and unit[0] & 0x60:
                slices.append(parse_slice(unit, self.pictures, self.sequences))
        return slices

    def _start(self, header: Slice) -> None:
        """Look for lost pictures before this one."""
        if header.idr:
            self._short, self._uncertain, self._long_term, self._last_frame_num = [], 0, False, 0
            return
        size = 1 << header.sequence.frame_num_bits
        if (header.frame_num - self._last_frame_num) % size > 1:
            self._uncertain = RENEWED

    def _references(self, header: Slice) -> list[int] | None:
        """List 0 of a P slice, or what both lists of a B slice are made of, as numbers of pictures; None where they
        hold what is not followed."""
        if header.kind == "B":
            return None if header.changes else [picture for _, picture in self._short]
        size = 1 << header.sequence.frame_num_bits
        # frame numbers wrap around: later than the current one means from the round before
        known = {(num if num <= header.frame_num else num - size): picture for num, picture in self._short}
        entries = [known[num] for num in sorted(known, reverse=True)]
        predicted = header.frame_num
        for position, (operation, value) in enumerate(header.changes):
            if operation == 2:
                return None
            step = value + 1
            predicted = (predicted + (step if operation else -step)) % size
            picture = known.get(predicted if predicted <= header.frame_num else predicted - size)
            if picture is None:
                return None
            entries[position:] = [picture, *(entry for entry in entries[position:] if entry != picture)]
        return entries[: header.num_ref_idx]

    def _mark(self, header: Slice, number: int) -> None:
        """Put a reference picture into the memory, and drop those that it pushes out."""
        size = 1 << header.sequence.frame_num_bits
        frame_num = header.frame_num
        if header.marking is None:
            if not header.idr and len(self._short) >= max(header.sequence.max_num_ref_frames, 1):
                oldest = min(self._short, key=lambda entry: entry[0] - (size if entry[0] > frame_num else 0))
                self._short.remove(oldest)
        for operation, value in header.marking or ():
            if operation == 1:
                dropped = (frame_num - value - 1) % size
                self._short = [entry for entry in self._short if entry[0] != dropped]
            elif operation == 5:
                self._short, frame_num = [], 0
            elif operation != 4:
                self._long_term = True
        self._short.append((frame_num, number))
        self._last_frame_num = frame_num
        if self._uncertain and not header.idr:
            self._uncertain -= 1

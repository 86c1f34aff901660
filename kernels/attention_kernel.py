"""`attention` for 1 to 8 tokens a row on a GPU, over the pages of a pool, in parts of SPAN pages. Where there are
several, they are joined: by the threadgroup of a head that ends last, or by a kernel of its own.

Keys are split by position alone: a row's result does not depend on other rows, on the pool's size, on where its pages
lie, or on how many are in the table.

There are two walks over the keys of a part. msl/attention_tiles.metal multiplies on the matrix units, at the same cost for
1 to 8 rows of q: 16-bit heads of 64 or 128. msl/attention.metal computes lane by lane, in any float type. Which one a head
takes never depends on the number of rows.

Knobs: walk ("tiles" or "lanes"), span (pages of a part: 1 or 2), simds (simdgroups of a threadgroup, which share its keys), tile
(rows of q a threadgroup at most), resident (threadgroups to fit on a core: CUDA's compiler is told, and no more are launched
than all cores have room for, each with some of the parts), join ("last" for the threadgroup that ends last, which on Metal
takes macOS 15, or "merge"); of "lanes" also batch (keys that a lane loads ahead).
"""

import platform
from dataclasses import dataclass

import mlx.core as mx

from . import launch, pages_kernel, workspace
from .linear_kernel import FLOATS, float_bits

MAX_TOKENS = 8
ROOM = ("room", "since")
INPUTS = ("q", "keys", "values", "where", "after", *ROOM)


def kernels_of(names: dict[str, str], inputs: tuple, written: tuple = (), optional: tuple = ()) -> dict:
    """For each walk, and whether another kernel joins the parts: then o has parts that nobody writes, where no token sees them."""
    return {
        (walk, parted): launch.Kernel(
            name, inputs, ("o",), written=(*written, "room"), optional=(*optional, "after", *ROOM), scratch=("o",) if parted else ()
        )
        for walk, name in names.items()
        for parted in (False, True)
    }


KERNEL = kernels_of({"lanes": "attention", "tiles": "attention_tiles"}, INPUTS)
MERGE = launch.Kernel("attention_merge", ("partial", "bounds"), ("o",))
DEFAULT = {
    "lanes": {"walk": "lanes", "span": 2, "simds": 8, "batch": 2, "tile": 4, "resident": 2},
    "tiles": {"walk": "tiles", "span": 2, "simds": 8, "tile": 8, "resident": 2},
}
SHARED = 16 << 10  # bytes of threadgroup memory for sums, and on Metal for keys and values, too: twice that leaves no room for more
SPARE = 16  # KiB of a CUDA core's memory for all else
TILED = (64, 128)  # sizes of heads that "tiles" takes
TURN = 16  # keys that a simdgroup of "tiles" takes at once
JOINED = 4  # rows whose sums "tiles" has in threadgroup memory at once


def case(q, keys_heads, window) -> tuple:
    heads, head_dim = q.shape[1], q.shape[3]
    seen = "all" if window is None else f"window {window}"
    return (str(q.dtype).split(".")[-1], f"{heads}/{keys_heads} heads of {head_dim}", seen)


def covers(q, pages) -> str | None:
    """Why there is no kernel for this call, or None."""
    if q.shape[2] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if q.dtype not in FLOATS or pages.dtype != q.dtype:
        return f"q is {q.dtype}, the pool {pages.dtype}"
    if q.shape[3] % 32 or q.shape[3] > 512:
        return f"heads of {q.shape[3]}; a multiple of 32 up to 512 is covered"
    return None


def fused(q, pages, addresses, *, scale, cap) -> mx.array:
    """q [B, H, T, d] over pools that hold the keys and values of its own positions already -> [B, T, H d]."""
    plan = Plan(q.shape[0], q.shape[1], q.shape[2], pages, addresses, scale, cap, q.dtype)
    return plan.launched(KERNEL, [q, *pages.held, addresses.where, pages_kernel.waited_for(pages, addresses.where)])


@dataclass
class Plan:
    """How a call is launched: in `parts` along the keys, which are joined where there are several."""

    batch: int
    heads: int
    new: int
    pages: object
    addresses: object
    scale: float
    cap: float | None
    dtype: mx.Dtype

    apart = False  # whether each part has a threadgroup of its own

    def __post_init__(self):
        from .pages import PAGE

        pages = self.pages
        self.rows = self.heads // pages.kv_heads * self.new
        knobs = self.chosen_knobs()
        self.walk = knobs["walk"]
        self.parts = self.addresses.pages // knobs["span"]
        self.last = knobs["join"] == "last" and not self.whole
        tiles = pages.kv_heads * -(-self.rows // knobs["tile"])
        walking = self.parts if self.apart else walkers(tiles * self.batch, self.parts, knobs["resident"])
        self.shape = {"T": self.dtype, "GROUP": self.heads // pages.kv_heads, "NEW": self.new, "KV": pages.kv_heads,
                      "D": pages.head_dim, "PAGE": PAGE, "SPAN": knobs["span"], "WINDOW": pages.window or 0}  # fmt: skip
        self.template = {
            **self.shape, "WHOLE": self.whole, "LAST": self.last, "ONCE": walking == self.parts,
            "OUT": mx.float32 if self.parted else self.dtype,
            "SCALE": float_bits(self.scale), "CAPPED": self.cap is not None, "CAP": float_bits(self.cap or 1.0),
            "TILE": knobs["tile"], "SIMDS": knobs["simds"], "RESIDENT": knobs["resident"], **self.of_walk(knobs),
        }  # fmt: skip
        self.groups = (tiles, self.batch, walking)
        self.threads = 32 * knobs["simds"]

    def chosen_knobs(self) -> dict:
        return chosen_knobs(self.pages.head_dim, self.dtype, self.rows)

    def of_walk(self, knobs: dict) -> dict:
        """What the template of this walk has besides."""
        if self.walk == "lanes":
            return {"BATCH": knobs["batch"], "LANES": lanes_of(self.pages.head_dim)}
        return {"STAGED": staged(knobs, self.pages.head_dim)}

    @property
    def whole(self) -> bool:
        return self.parts == 1

    @property
    def parted(self) -> bool:
        """Whether another kernel joins the parts."""
        return not (self.whole or self.last)

    @property
    def result(self) -> tuple:
        return ((self.batch, self.new, self.heads * self.pages.head_dim), self.dtype)

    @property
    def sums(self) -> tuple:
        return parted(self.batch * self.pages.kv_heads * self.parts * self.rows, self.pages.head_dim)

    def launched(self, kernels: dict, inputs: list, **more) -> mx.array:
        """The result. `inputs` come before those of `ROOM`: a counter for all threadgroups that differ in their part alone,
        and room for the sums of all parts. `more` of the template."""
        ((sums,), _), area = self.sums, workspace.current(inputs[0]).sums if self.last else None
        room = area.room(self.groups[0] * self.groups[1], sums) if area else (None, None)
        (o,) = kernels[self.walk, self.parted](
            [*inputs, *(inputs[0] if x is None else x for x in room)], [self.sums if self.parted else self.result],
            template={**self.template, **more, "COUNTERS": area.kept if area else 0}, groups=self.groups, threads=self.threads,
        )  # fmt: skip
        if area:
            area.after = o
        return merged(o, self.addresses, self.shape, self.parts, self.result) if self.parted else o


def walkers(tiles: int, parts: int, resident: int) -> int:
    """Threadgroups that share the parts of each of so many tiles of q: as many as all cores have room for at once. Metal does not
    tell how many cores there are; there each part has its own."""
    if launch.machine() == "metal":
        return parts
    return max(1, min(parts, launch.cores() * resident // tiles))


def merged(partial: mx.array, addresses, shape: dict, parts: int, result: tuple) -> mx.array:
    """The parts of `partial` joined by a kernel of its own; `shape` as in `Plan`."""
    (o,) = MERGE(
        [partial, addresses.bounds],
        [result],
        template={**shape, "PARTS": parts},
        groups=(shape["GROUP"] * shape["NEW"], shape["KV"], addresses.rows),
        threads=-(-shape["D"] // 32) * 32,
    )
    return o


def parted(heads: int, head_dim: int) -> tuple:
    """The output for so many heads of parts: the sums of all, then of each its largest score and the sum of its weights.

    One output, not two: each costs MLX the allocation of its memory.
    """
    return (heads * (head_dim + 2),), mx.float32


def lanes_of(head_dim: int) -> int:
    """Lanes that share one key: as many as leave each 8 elements or a few more."""
    return min(32, 1 << (head_dim // 8).bit_length() - 1)


def chosen_knobs(head_dim: int, dtype: mx.Dtype, rows: int) -> dict:
    """From the tables where they know this head size on this chip. How the keys are split does not depend on `rows`:
    a token's bits are the same in steps of one and of several."""
    found = launch.knobs("attention", f"{head_dim}", {})
    walk = found.get("walk", "tiles" if launch.on_nvidia() else "lanes")
    join = found.get("join", default_join())
    if refuses_walk(walk, head_dim, dtype):
        found, walk = {}, "lanes"
    knobs = DEFAULT[walk] | found | {"join": join}
    fit = fit_tiles if walk == "tiles" else fit_lanes
    return {**knobs, **fit(knobs, head_dim), "tile": min(rows, knobs["tile"])}


def default_join() -> str:
    """On Metal the one that takes no fence."""
    return "last" if launch.on_nvidia() else "merge"


def joins() -> tuple[str, ...]:
    """Ways to join parts here, the default first. Fences are in macOS from 15 on."""
    if launch.on_nvidia():
        return "last", "merge"
    macos = platform.mac_ver()[0].partition(".")[0]
    return ("merge", "last") if not macos or int(macos) >= 15 else ("merge",)


def refuses_walk(walk: str, head_dim: int, dtype: mx.Dtype) -> str | None:
    """Why these heads cannot be walked so, or None."""
    if walk == "tiles" and (dtype == mx.float32 or head_dim not in TILED):
        return f"tiles take 16-bit heads of {' or '.join(map(str, TILED))}"
    return None


def fit_tiles(knobs: dict, head_dim: int) -> dict:
    """So many simdgroups that each has a turn of keys, and there is room for all their keys, values and sums."""
    from .pages import PAGE as page

    simds = knobs["simds"]
    limit = launch.core_memory() - SPARE << 10 if launch.machine() == "cuda" else SHARED
    while simds > 1 and (16 * staged(knobs | {"simds": simds}, head_dim) > limit or knobs["span"] * page % (simds * TURN)):
        simds //= 2
    return {"simds": simds}


def staged(knobs: dict, head_dim: int) -> int:
    """Pieces of 16 bytes of threadgroup memory that "tiles" takes: keys and values of a turn for each simdgroup, of which those in
    one page are a region, with 32 bytes behind each fourth of it; and sums, with as much behind each row."""
    from .pages import PAGE as page

    together = knobs["simds"] * TURN
    regions = max(1, together // page)
    sums = knobs["simds"] * min(knobs["tile"], JOINED) * (head_dim + 8) // 4
    return 2 * (together * head_dim // 8 + 8 * regions) + sums


def fit_lanes(knobs: dict, head_dim: int) -> dict:
    from .pages import PAGE as page

    together = 32 // lanes_of(head_dim)
    simds = knobs["simds"]
    while simds > 1 and (4 * simds * knobs["tile"] * head_dim > SHARED or knobs["span"] * page // simds < together):
        simds //= 2
    batch = knobs["batch"]
    while batch > 1 and (page % (together * batch) or knobs["span"] * page // simds % (together * batch)):
        batch //= 2
    return {"simds": simds, "batch": batch}

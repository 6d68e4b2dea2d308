"""``relqa distort``: operators of the bank on one photograph, with their ground truth and a recipe to do it again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import whole_files, write_whole
from .common import Commands, UsageError, command, names, note, print_table
from .progress import Bar

if TYPE_CHECKING:
    from torch import Tensor

    from ..distortions import Component, Distortion, Recipe, Triplet

SEVERITY, SEED = 0.5, 0
# Which options each way of calling the command takes, beside PHOTO.
_OPTIONS = {
    "--list": ("markdown", "out", "family", "names"),
    "--grid": ("family", "names", "severities", "region", "seed", "side"),
    "--recipe": ("out", "other_photo"),
    "--name": ("severity", "region", "seed", "out"),
}


def add_commands(commands: Commands) -> None:
    """Register ``distort``."""
    parser = command(commands, "distort", "Distort a photograph, draw a grid of distortions, or list them.")
    parser.add_argument("photo", metavar="PHOTO", type=Path, nargs="?", help="the photograph")
    one = parser.add_argument_group("one distortion")
    one.add_argument("--name", help="which distortion")
    one.add_argument("--severity", type=float, help=f"0 = untouched, 1 = strongest (default: {SEVERITY})")
    one.add_argument("--region", metavar="KIND", help="where it acts (default: everywhere; in a grid: soft)")
    one.add_argument("--seed", type=int, help=f"of the random draws (default: {SEED})")
    one.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE",
        help="folder for the picture, its target maps and the recipe; or a picture file, for the picture alone",
    )
    again = parser.add_argument_group("a recipe")
    again.add_argument("--recipe", type=Path, metavar="FILE", help="do what a recipe says; written beside the picture")
    again.add_argument("--other-photo", action="store_true", default=None, help="whatever photograph it was made for")
    grid = parser.add_argument_group("a figure of many distortions")
    grid.add_argument("--grid", type=Path, metavar="FILE", help="figure of distortions at rising severity (PNG, PDF)")
    grid.add_argument("--family", metavar="A,B", type=names, help="only these families")
    grid.add_argument("--names", metavar="A,B", type=names, help="only these distortions")
    grid.add_argument("--severities", metavar="A,B", type=_numbers, help="columns (default: 0.25,0.5,0.75,1)")
    grid.add_argument("--side", type=int, help="side of the tiles in pixels (default: 160)")
    listing = parser.add_argument_group("the bank")
    listing.add_argument("--list", action="store_true", default=None, help="list the distortions and regions")
    listing.add_argument(
        "--markdown",
        action="store_true",
        default=None,
        help="with --list: as the tables of the documentation; with --out FILE.md, into their places in that file",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do one of the four things the command can do."""
    mode = _mode(args)
    if mode == "--list":
        return list_bank(args)
    if mode == "--grid":
        return draw_grid(args)
    return distort_photo(args)


def _numbers(text: str) -> list[float]:
    return [float(word) for word in names(text)]


def _mode(args: argparse.Namespace) -> str:
    """Which of ``_OPTIONS`` is meant; UsageError for none, for two, or for an option that belongs to another."""
    modes = [mode for mode in _OPTIONS if getattr(args, mode[2:]) is not None]
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} do not go together")
    mode = modes[0] if modes else "--name"
    needed = {"--list": (), "--grid": ("photo",)}.get(mode, ("photo", mode[2:], "out"))
    missing = [_flag(name) for name in needed if getattr(args, name) is None]
    if missing:
        raise UsageError(f"needs {', '.join(missing)}" + ("" if modes else " (or --grid FILE, or --list)"))
    others = {name for options in _OPTIONS.values() for name in options} - set(_OPTIONS[mode])
    foreign = sorted(name for name in others if getattr(args, name) is not None)
    if foreign:
        raise UsageError(f"{', '.join(map(_flag, foreign))}: not with {mode}")
    return mode


def _flag(name: str) -> str:
    return "PHOTO" if name == "photo" else f"--{name.replace('_', '-')}"


def distort_photo(args: argparse.Namespace) -> int:
    """Write the distorted photograph, and into a folder also its target maps and the recipe."""
    from ..distortions import REGIONS, Component, DistortionEngine
    from ..distortions.recipe_file import check_record, check_seed, read_recipe, recipe_record
    from ..images import SUFFIXES, read_image, write_image
    from ..validation import unknown_name

    recipe: Recipe
    image = read_image(args.photo)
    remarks: list[str] = []
    if args.recipe is not None:
        recipe, said = read_recipe(args.recipe)
        remarks = check_record(recipe, said, args.photo, other_photo=bool(args.other_photo))
    else:
        region = args.region or "whole"
        if region not in REGIONS:
            raise ValueError(unknown_name("region", region, REGIONS))
        severity = SEVERITY if args.severity is None else args.severity
        seed = check_seed(SEED if args.seed is None else args.seed)
        recipe = (Component(args.name, severity, region, seed),)
    triplet = DistortionEngine(list(dict.fromkeys(one.name for one in recipe))).render(image[None], [recipe])
    target: Path = args.out
    if target.exists() and target.samefile(args.photo):
        raise ValueError(f"--out must not be the photograph itself, got {target}")
    if target.suffix and target.suffix.lower() not in SUFFIXES and not target.is_dir():
        raise ValueError(f"--out must be a folder or end in one of {', '.join(sorted(SUFFIXES))}, got {target}")
    for remark in remarks:
        note(remark)
    if target.suffix.lower() in SUFFIXES and not target.is_dir():
        with whole_files(target.parent) as scratch:
            write_image(scratch / target.name, triplet.distorted)
        print(target)
        return 0
    stem = "-".join([args.photo.stem, *map(_slug, recipe)])
    with whole_files(target) as scratch:
        write_image(scratch / f"{stem}.png", triplet.distorted)
        _write_maps(scratch / f"{stem}-maps.safetensors", triplet, recipe)
        drawn = _draw_maps(scratch / f"{stem}-map.png", triplet, recipe)
        record = json.dumps(recipe_record(recipe, args.photo), indent=2) + "\n"
        (scratch / f"{stem}-recipe.json").write_text(record, encoding="utf-8")
    if not drawn:
        (target / f"{stem}-map.png").unlink(missing_ok=True)  # an earlier run's would stand beside other files
    print(target / f"{stem}.png")
    for ending in ("-maps.safetensors", *(["-map.png"] if drawn else []), "-recipe.json"):
        note(f"written: {target / f'{stem}{ending}'}")
    return 0


def _slug(one: Component) -> str:
    """What was done, for a file name: region and seed where they are not the defaults."""
    slug = f"{one.name}-{one.severity:g}"
    if one.region != "whole":
        slug += f"-{one.region}"
    return slug if one.seed == SEED else f"{slug}-seed-{one.seed}"


def _write_maps(path: Path, triplet: Triplet, recipe: Recipe) -> None:
    """Targets as float32 (H, W), by axis, and ``weight``; an axis without a target in the file is 0 everywhere."""
    from safetensors.torch import save

    from ..distortions import by_name
    from ..relation import AXES

    declared = {axis for one in recipe for axis in by_name(one.name).effects}
    maps = triplet.maps[0].float()
    tensors: dict[str, Tensor] = {
        axis: maps[k].contiguous() for k, axis in enumerate(AXES) if axis in declared or bool(maps[k].any())
    }
    path.write_bytes(save({**tensors, "weight": triplet.weight[0].float().contiguous()}))


def _draw_maps(path: Path, triplet: Triplet, recipe: Recipe) -> bool:
    """Draw the target maps; False, with a note, where matplotlib is missing: everything else needs only Pillow."""
    from ..figures_distortions import recipe_figure
    from ..images import MissingExtra

    title = ", then ".join(
        f"{one.name} at severity {one.severity:g}" + ("" if one.region == "whole" else f" in a {one.region} region")
        for one in recipe
    )
    try:
        recipe_figure(triplet, path, title=title)
    except MissingExtra as error:
        note(f"no figure of the maps: {error}")
        return False
    return True


def draw_grid(args: argparse.Namespace) -> int:
    """Draw every chosen operator at rising severity with its target map."""
    from ..distortions import REGIONS
    from ..distortions.availability import can_run
    from ..distortions.recipe_file import check_seed
    from ..figures import check_ending, figure_path
    from ..figures_distortions import REGION, SEVERITIES, SIDE, distortion_grid
    from ..images import read_image
    from ..validation import unknown_name

    region = args.region or REGION
    if region not in REGIONS:
        raise ValueError(unknown_name("region", region, REGIONS))
    chosen = chosen_distortions(args.family, args.names)
    # What was asked for by name must be there; of a family, what can run here.
    left_out = [] if args.names is not None else [one for one in chosen if not can_run(one)]
    chosen = [one for one in chosen if one not in left_out]
    if not chosen:
        raise ValueError("none of the chosen distortions can run here: " + _codecs(left_out))
    target = figure_path(args.grid)
    check_ending(target)
    photo = read_image(args.photo)
    with whole_files(target.parent) as scratch:
        distortion_grid(
            photo,
            chosen,
            scratch / target.name,
            severities=SEVERITIES if args.severities is None else args.severities,
            region=region,
            seed=check_seed(SEED if args.seed is None else args.seed),
            side=min(SIDE, *photo.shape[1:]) if args.side is None else args.side,
            title=args.photo.name,
            progress=Bar("distorting"),
        )
    if left_out:
        note(f"left out, no codec here: {_codecs(left_out)}")
    print(target)
    return 0


def _codecs(distortions: Sequence[Distortion]) -> str:
    return ", ".join(f"{one.name} ({one.codec})" for one in distortions)


def chosen_distortions(families: Sequence[str] | None, names: Sequence[str] | None) -> list[Distortion]:
    """Operators of the bank in its order: those of the families and those named, or all if neither is given.

    Raises:
        ValueError: an unknown family or name, with the nearest match.
    """
    from ..distortions import BANK, by_name
    from ..validation import unknown_name

    known = tuple(dict.fromkeys(one.family for one in BANK))
    for family in families or ():
        if family not in known:
            raise ValueError(unknown_name("family", family, known))
    wanted = {by_name(name).name for name in names or ()} | {d.name for d in BANK if d.family in (families or ())}
    if families is None and names is None:
        return list(BANK)
    return [one for one in BANK if one.name in wanted]


def list_bank(args: argparse.Namespace) -> int:
    """Names, families and effects; or the tables of the documentation."""
    from ..distortions import REGIONS
    from ..distortions.catalogue import COMMAND, bank_markdown, coverage_markdown, tables
    from ..markdown import fill

    chosen = chosen_distortions(args.family, args.names)
    if args.markdown:
        if args.out is None:
            print(bank_markdown(chosen), end="\n\n")
            print(coverage_markdown())
            return 0
        if args.family is not None or args.names is not None:
            raise UsageError("--family, --names: not with --out, the documentation shows the whole bank")
        write_whole(args.out, fill(args.out.read_text(encoding="utf-8"), tables(), COMMAND))
        print(args.out)
        return 0
    if args.out is not None:
        raise UsageError("--out: with --list only together with --markdown")
    rows = [[d.name, d.family, ", ".join(f"{axis} {effect:+g}" for axis, effect in d.effects.items())] for d in chosen]
    print_table(["name", "family", "effect on axes"], rows)
    print(f"\nregions: {', '.join(REGIONS)}")
    return 0

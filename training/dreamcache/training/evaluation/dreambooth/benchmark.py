"""DreamBooth's benchmark in its own folder layout: subjects, their photographs, and the prompts.

    dataset/<subject>/00.jpg, 01.jpg, …
    dataset/prompts_and_classes.txt

Ruiz et al. 2023, section 4.1; layout: github.com/google/dreambooth, `dataset/prompts_and_classes.txt`. That file is a
table "subject_name,class" and two Python lists of templates, one for objects and one for live subjects. Nothing in it
is executed: templates are read as text, and their two fields are replaced as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamcache.training.errors import BenchmarkError

PROMPTS_FILE = "prompts_and_classes.txt"
# The file does not say which subjects are alive; the repository's README does: its dogs and cats.
LIVE_CLASSES = ("cat", "dog")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")

WHOLE_SUBJECTS, WHOLE_PROMPTS, WHOLE_IMAGES = 30, 25, 4

_TABLE_HEAD = "subject_name,class"
_TEMPLATE = re.compile(r"""^\s*(['"])(?P<template>.*\{1\}.*)\1\s*\.format\(""")


@dataclass(frozen=True)
class BenchmarkSubject:
    """One subject. pictures: its photographs, in the order of their names. prompts: without the unique token."""

    name: str
    class_name: str
    pictures: tuple[Path, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """The subjects that are evaluated. listed: how many the prompts file names."""

    folder: Path
    subjects: tuple[BenchmarkSubject, ...]
    listed: int

    @property
    def is_whole(self) -> bool:
        """Whether it has as many subjects and prompts as the published one."""
        return len(self.subjects) == WHOLE_SUBJECTS and all(
            len(subject.prompts) == WHOLE_PROMPTS for subject in self.subjects
        )


@dataclass(frozen=True)
class PromptsAndClasses:
    """The prompts file. classes: of each subject. object_prompts, live_prompts: templates with {0} and {1}."""

    classes: dict[str, str]
    object_prompts: tuple[str, ...]
    live_prompts: tuple[str, ...]

    def prompts(self, subject: str) -> tuple[str, ...]:
        """The prompts of a subject."""
        class_name = self.classes[subject]
        templates = self.live_prompts if class_name in LIVE_CLASSES else self.object_prompts
        return tuple(fill(template, class_name) for template in templates)


def fill(template: str, class_name: str) -> str:
    """A template's prompt: "a {0} {1} in the snow" and "dog" give "a dog in the snow".

    {0} is the unique token that DreamBooth fine-tunes for; DreamCache has none, so it is dropped.
    """
    return " ".join(template.replace("{0}", "").replace("{1}", class_name).split())


def read_benchmark(
    folder: Path, subjects: Sequence[str] = (), prompts: int | None = None, reference_image: int = 0
) -> Benchmark:
    """Read the benchmark, or a part of it.

    Args:
        folder: the data set's folder, or the repository that holds it as `dataset`.
        subjects: names to keep; all by default.
        prompts: keep this many of each subject's prompts; all by default.
        reference_image: number, from 0, of the photograph that will be the reference; each subject must have it.

    Raises:
        BenchmarkError: no such folder, no or another prompts file, a subject that is not listed, or subjects
            without photographs; all of the missing are named at once.
    """
    home = folder / "dataset" if (folder / "dataset" / PROMPTS_FILE).is_file() else folder
    known = _read_prompts(home)
    unknown = [name for name in subjects if name not in known.classes]
    if unknown:
        raise BenchmarkError(
            f"{home / PROMPTS_FILE} does not list {', '.join(unknown)}; it lists {', '.join(known.classes)}"
        )
    wanted = [name for name in known.classes if not subjects or name in subjects]
    pictures = {name: _pictures(home / name) for name in wanted}
    absent = [name for name in wanted if not pictures[name]]
    if absent:
        raise BenchmarkError(
            f"{home} lacks photographs of {len(absent)} of its {len(wanted)} subjects: {', '.join(absent)}; "
            "fetch the whole of github.com/google/dreambooth, or name those that are there with --subject"
        )
    few = [name for name in wanted if len(pictures[name]) <= reference_image]
    if few:
        name = few[0]
        raise BenchmarkError(
            f"--reference-image {reference_image}: {name} has photographs 0 to {len(pictures[name]) - 1}; "
            "give a number that every subject has"
        )
    read = tuple(
        BenchmarkSubject(name, known.classes[name], pictures[name], known.prompts(name)[:prompts])
        for name in wanted
    )
    return Benchmark(home, read, len(known.classes))


def parse_prompts(text: str, name: str = PROMPTS_FILE) -> PromptsAndClasses:
    """Read the text of a prompts file.

    Raises:
        BenchmarkError: it has no table of subjects, or no templates of one of the two kinds; subjects that are no
            folder names.
    """
    lines = text.splitlines()
    classes = _classes(lines, name)
    objects = _templates(lines, "Object Prompts")
    live = _templates(lines, "Live Subject Prompts")
    for kind, found in (("Object Prompts", objects), ("Live Subject Prompts", live)):
        if not found:
            raise BenchmarkError(
                f"{name}: templates such as 'a {{0}} {{1}} in the snow'.format(…) are expected below {kind!r}, "
                "none is there; fetch the file again"
            )
    return PromptsAndClasses(classes, objects, live)


def _read_prompts(home: Path) -> PromptsAndClasses:
    path = home / PROMPTS_FILE
    try:
        return parse_prompts(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise BenchmarkError(
            f"{home} holds no {PROMPTS_FILE}; expected DreamBooth's data set: "
            "git clone https://github.com/google/dreambooth, and name its folder `dataset`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read ({error}); fetch the file again") from error


def _classes(lines: list[str], name: str) -> dict[str, str]:
    stripped = [line.strip() for line in lines]
    if _TABLE_HEAD not in stripped:
        raise BenchmarkError(
            f"{name}: a table that begins with {_TABLE_HEAD!r} is expected; fetch the file again"
        )
    classes: dict[str, str] = {}
    for line in stripped[stripped.index(_TABLE_HEAD) + 1 :]:
        subject, comma, class_name = (part.strip() for part in line.partition(","))
        if not comma:
            break
        if not re.fullmatch(r"[\w-]+", subject) or not class_name or subject in classes:
            raise BenchmarkError(
                f"{name}: a line such as 'teapot,teapot' is expected, received {line!r}; names of subjects are "
                "folders of letters, digits, _ and -, each listed once"
            )
        classes[subject] = class_name
    if not classes:
        raise BenchmarkError(f"{name}: no subject is listed below {_TABLE_HEAD!r}; fetch the file again")
    return classes


def _templates(lines: list[str], heading: str) -> tuple[str, ...]:
    """The templates between a heading and the end of its list."""
    stripped = [line.strip() for line in lines]
    if heading not in stripped:
        return ()
    found = []
    for line in stripped[stripped.index(heading) + 1 :]:
        if line.startswith("]"):
            break
        if match := _TEMPLATE.match(line):
            found.append(match["template"])
    return tuple(found)


def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    # A copied folder may bring hidden companions such as ._00.jpg.
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".")
        )
    )

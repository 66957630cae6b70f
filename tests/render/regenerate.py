"""Write the golden directories anew: `python -m tests.render.regenerate`, then read `git diff`."""

from __future__ import annotations

import shutil

from tests.render import golden


def main() -> None:
    for name in golden.NAMES:
        folder = golden.HERE / name / "expected"
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in golden.flat(golden.rendered(name)).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)


if __name__ == "__main__":
    main()

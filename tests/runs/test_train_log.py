"""The log of a run has one line per epoch, also after a resume."""

from pathlib import Path

from opsin.runs.train_log import drop_epochs_after


def test_lines_of_epochs_that_are_trained_again_are_removed_in_place(tmp_path: Path) -> None:
    file = tmp_path / "train.log"
    said = [
        f"[2026-11-26 10:00:0{i}][opsin][INFO] epoch {epoch}/9  loss 1" for i, epoch in enumerate((1, 1.5, 2, 2.25))
    ]
    file.write_bytes("\n".join([*said, "[time][opsin][INFO] other \xe9poch 3/9", ""]).encode("latin-1"))
    with file.open("ab") as handler:
        drop_epochs_after(file, 1.5)
        handler.write(b"resumed\n")
    assert file.read_bytes() == "\n".join([*said[:2], "[time][opsin][INFO] other \xe9poch 3/9", "resumed\n"]).encode(
        "latin-1"
    )
    drop_epochs_after(tmp_path / "absent.log", 0)
    before, link = file.read_bytes(), tmp_path / "link.log"
    link.symlink_to(file)
    drop_epochs_after(link, 0)
    assert file.read_bytes() == before

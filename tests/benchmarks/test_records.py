from dataclasses import asdict, replace

import numpy as np
import pytest
from made_records import CONFIG, correct_bits, made_record
from made_runs import made_run

from benchmarks.reproduce.records import config_digest, file_of, read_row, read_rows, read_seed, record_of, write_record
from benchmarks.reproduce.rows import Row
from opsin.errors import UserError

ROW = Row("some", "title", "group", "mnist")


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = made_record(ROW, 1, correct_bits(0.9, 1_003))
    write_record(tmp_path, record)
    found = read_seed(tmp_path, "some", 1)
    assert found == record
    assert (found.test_correct == correct_bits(0.9, 1_003)).all()
    assert file_of(tmp_path, "some", 1).stat().st_size < 2_500
    assert read_row(tmp_path, ROW) == [record]


def test_a_damaged_or_changed_record_counts_as_missing(tmp_path):
    write_record(tmp_path, made_record(ROW, 0, correct_bits(0.9)))
    file = file_of(tmp_path, "some", 0)
    whole = file.read_text()
    for text in (whole[: len(whole) // 2], "", whole.replace('"optimizer.lr":0.002', '"optimizer.lr":0.1')):
        file.write_text(text)
        assert read_seed(tmp_path, "some", 0) is None
    assert read_seed(tmp_path, "some", 5) is None
    write_record(tmp_path, made_record("other", 0, correct_bits(0.9)))
    file_of(tmp_path, "other", 0).rename(file)
    assert read_seed(tmp_path, "some", 0) is None


def test_only_values_of_both_configs_make_a_record_outdated():
    record = made_record(ROW, 0, correct_bits(0.9))
    assert record.is_of({**CONFIG, "trainer.new_key": 1})
    assert record.is_of({"optimizer.lr": 0.002})
    assert not record.is_of({**CONFIG, "optimizer.lr": 0.1})


def test_seeds_of_different_datasets_are_refused(tmp_path):
    write_record(tmp_path, made_record(ROW, 0, correct_bits(0.9)))
    write_record(tmp_path, made_record(ROW, 1, correct_bits(0.9), dataset="another"))
    with pytest.raises(UserError, match="different datasets"):
        read_row(tmp_path, ROW)
    records, problems = read_rows(tmp_path, [ROW, Row("other", "title", "group", "mnist")])
    assert records == {"some": [], "other": []}
    assert len(problems) == 1


def _of_sample(seed, sample, dataset):
    """Return a record of a run on a sample of a dataset."""
    config = {**CONFIG, "datamodule.subset_seed": sample}
    more = {"config": config, "config_digest": config_digest(config), "dataset": dataset}
    return made_record(ROW, seed, correct_bits(0.9), **more)


def test_each_seed_can_have_its_own_sample_of_a_dataset(tmp_path):
    samples = [_of_sample(seed, seed, f"sample {seed}") for seed in range(3)]
    for record in samples:
        write_record(tmp_path, record)
    assert read_row(tmp_path, ROW) == samples
    write_record(tmp_path, _of_sample(3, 0, "another"))
    with pytest.raises(UserError, match="different datasets"):
        read_row(tmp_path, ROW)


def test_a_record_of_a_finished_run(tmp_path):
    result = {"metrics": {"test/acc": 0.75}, "seconds": {"total": 3.0}}
    run = made_run(tmp_path / "run", [True, True, False, True], result=result, epochs=(0.5, 0.7))
    record = record_of(ROW, 4, run, load=0.2)
    assert record.test_correct.tolist() == [True, True, False, True]
    assert record.curves["val/acc"] == [0.5, 0.7]
    assert record.config["optimizer.lr"] == 0.002
    assert record.config_digest == config_digest(record.config)
    assert record.command.endswith("experiment=some data_dir=DATA seed=4")
    assert sum(record.predicted) == 4
    assert "seed" not in record.config
    write_record(tmp_path, replace(record, counts={"test": 4}))
    assert asdict(read_seed(tmp_path, "some", 4))["metrics"] == {"test/acc": 0.75}
    with pytest.raises(UserError, match="not a finished run"):
        record_of(ROW, 4, made_run(tmp_path / "without"), load=None)


def test_any_number_of_bits_is_read_back():
    for count in (1, 7, 8, 9, 1_000):
        bits = np.random.default_rng(count).random(count) < 0.5
        assert (made_record(ROW, 0, bits).test_correct == bits).all()

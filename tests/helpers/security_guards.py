"""Guards of the source that docs/security.md promises, each with the tests that fail without it."""

from typing import NamedTuple


class Guard(NamedTuple):
    """One guard, and the tests that fail without it.

    Attributes:
        file: The file below `src/opsin`.
        code: The text of the guard, once in the file.
        without: The text in its place when the guard is removed.
        tests: Arguments for pytest, below `tests`.
    """

    file: str
    code: str
    without: str
    tests: str


_TARGETS = "training/test_permitted_targets.py::"
_FILES = "test_hostile_files.py"
_PICKLE, _UNSAFE_PICKLE = "allow_pickle=False", "allow_pickle=True"

GUARDS = (
    Guard(
        "config/target_lookup.py",
        "if package := _permitted_package(name):",
        'if package := name.partition(".")[0]:',
        f"config/test_target_lookup.py {_TARGETS}test_hostile_names_are_refused_in_every_section",
    ),
    Guard(
        "config/target_lookup.py",
        " for name, found in objects.items() if accepts(found)}",
        " for name, found in objects.items()}",
        f"{_TARGETS}test_hostile_names_are_refused_in_every_section",
    ),
    Guard(
        "config/hydra_keys.py",
        "if default is not ... and node != default",
        "if False and node != default",
        "config/test_hydra_keys.py::test_a_key_without_an_effect_in_a_file_is_refused",
    ),
    Guard(
        "commands/dispatch.py",
        "    refuse_typed_secrets(words)\n",
        "",
        "config/test_compose.py::test_a_typed_secret_is_not_repeated_where_the_command_or_the_key_is_wrong",
    ),
    Guard(
        "runs/secret_values.py",
        "        text = text.replace(value, _references[value])\n",
        "        pass\n",
        "sweeps/test_jobs.py::test_registered_secrets_are_masked_in_every_form",
    ),
    Guard("config/logging_settings.py", "in _problems(values, run):", "in ():", "config/test_logging_settings.py"),
    Guard(
        "runs/directory.py",
        "if link.is_symlink() and not",
        "if False and not",
        f"{_FILES}::test_a_command_that_writes_refuses_a_folder_that_is_a_link_out_of_the_run",
    ),
    *(
        Guard(
            f"commands/{file}.py",
            f"{call}\n",
            "pass\n",
            f"{_FILES}::test_a_command_that_writes_refuses_a_folder_that_is_a_link_out_of_the_run",
        )
        for file, call in (
            ("evaluate", "run.check_links(run.out)"),
            ("report", "run.check_links(run.out)"),
            ("export", "run.check_links(out.parent)"),
            ("embed", "RunDirectory(real_path(name)).check_links(out)"),
            ("interpret/interpretation", "run.check_links(run.path if tensorboard else folder)"),
        )
    ),
    Guard(
        "commands/train_cli.py",
        "    composed.run.check_links()\n",
        "",
        f"{_FILES}::test_training_and_resumes_refuse_a_folder_that_is_a_link_out_of_the_run",
    ),
    Guard(
        "sweeps/jobs.py",
        "        run.check_links()\n",
        "",
        "sweeps/test_jobs.py::test_a_job_with_a_link_out_of_its_run_is_refused",
    ),
    Guard("config/hydra_session.py", "    _refuse_modules()\n", "", "config/test_hydra_session.py"),
    Guard(
        "config/hydra_session.py",
        "        SourcesRegistry.instance().types = sources\n",
        "",
        "config/test_hydra_session.py::test_hydra_of_the_caller_keeps_its_own_sources",
    ),
    Guard(
        "config/compose.py",
        "    refuse_variables_in_files(composed, overrides)\n",
        "",
        "config/test_hydra_keys.py::test_a_config_file_sets_no_variable_that_can_load_code",
    ),
    Guard(
        "config/compose.py",
        "    refuse_literal_secrets(composed.tree)\n",
        "",
        "config/test_compose.py::test_a_literal_secret_in_a_file_is_refused",
    ),
    Guard(
        "config/project.py",
        "return sweep if sweep.exists()",
        "return None if sweep.exists()",
        "config/test_project.py::test_a_sweep_directory_is_no_project",
    ),
    Guard(
        "config/project.py",
        " or _may_hold(run.config, SECTIONS)",
        "",
        "config/test_project.py::test_a_run_directory_is_no_project",
    ),
    Guard(
        "config/project.py",
        "    return folder != here and bool(owners)",
        "    return False and bool(owners)",
        "config/test_project.py::test_a_project_of_another_user_is_found_in_its_own_folder_only",
    ),
    Guard(
        "config/validation.py",
        'if key in known or key == "_target_":',
        'if key in known or key.startswith(("_", "(")):',
        f"{_TARGETS}test_instantiation_keywords_of_hydra_are_refused_as_unknown_keys",
    ),
    Guard(
        "config/run_config.py",
        "OmegaConf.to_container(OmegaConf.load(io.StringIO(text))) if has_keys",
        "yaml.unsafe_load(text) if has_keys",
        f"{_TARGETS}test_a_yaml_tag_creates_no_object",
    ),
    Guard(
        "sweeps/checked_sweep.py",
        '    _refuse_foreign_commands(tree["launcher"]',
        '    (lambda *_: None)(tree["launcher"]',
        "sweeps/test_sweep_files.py::test_a_config_file_outside_the_project_sets_no_command_of_a_launcher",
    ),
    Guard(
        "sweeps/launchers/slurm.py",
        "        _refuse_line_breaks({",
        "        dict({",
        "sweeps/test_sweep_files.py::test_an_option_of_sbatch_adds_no_line_to_the_script",
    ),
    Guard(
        "training/plan.py",
        '        callbacks=inside_run("callbacks", plan.callbacks, config.run),\n'
        '        loggers=inside_run("logger", plan.loggers, config.run),\n',
        "",
        "training/test_file_arguments.py",
    ),
    Guard(
        "training/plan.py",
        "    refuse_misplaced_secrets(config.tree)\n    plan = ",
        "    plan = ",
        f"{_TARGETS}test_a_foreign_run_sends_no_secret",
    ),
    Guard(
        "training/plan.py",
        "    refuse_misplaced_secrets(config.tree)\n    tree = ",
        "    tree = ",
        f"{_TARGETS}test_a_network_of_a_foreign_run_gets_no_secret",
    ),
    Guard(
        "training/lightning_patches.py",
        "if not Path(path).resolve().is_relative_to(self._folder.resolve()):",
        "if False:",
        "training/test_file_arguments.py"
        "::test_a_checkpoint_that_names_a_foreign_file_as_its_predecessor_deletes_nothing",
    ),
    Guard("training/resume_check.py", "weights_only=True", "weights_only=False", _FILES),
    Guard(
        "models/pretrained/timm.py",
        "    if name in known:\n        return",
        "    return",
        f"{_TARGETS}test_timm_loads_networks_of_its_own_list_only",
    ),
    Guard("models/weights.py", "weights_only=True", "weights_only=False", _FILES),
    Guard("runs/predictions.py", _PICKLE, _UNSAFE_PICKLE, _FILES),
    Guard("runs/per_class.py", _PICKLE, _UNSAFE_PICKLE, _FILES),
    Guard("data/decode.py", _PICKLE, _UNSAFE_PICKLE, _FILES),
    Guard("data/cache/files.py", _PICKLE, _UNSAFE_PICKLE, _FILES),
    Guard("data/shards/index.py", _PICKLE, _UNSAFE_PICKLE, _FILES),
    Guard(
        "data/cache/image_store.py",
        'np.load(folder / "targets.npy", allow_pickle=False)',
        'np.load(folder / "targets.npy", allow_pickle=True)',
        _FILES,
    ),
    Guard(
        "data/shards/index.py",
        "if foreign := _foreign_name(index.splits):",
        "if foreign := None:",
        "data/shards/test_shards.py::test_an_index_names_no_file_outside_the_shards",
    ),
    Guard(
        "data/datasets/cifar10.py",
        '"_reconstruct": _PlainArray, "ndarray": object(), "dtype": _PlainType',
        '"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype',
        "data/datasets/test_array_datasets.py::test_a_pickle_gets_no_object_of_numpy",
    ),
    Guard(
        "data/datasets/download.py",
        "if digest == md5:",
        "if digest:",
        "data/datasets/test_download.py data/datasets/test_array_datasets.py"
        "::test_the_archive_is_unpacked_only_if_its_checksum_matches",
    ),
    Guard(
        "data/datasets/cifar10.py",
        "        for name in [name for names in _BATCHES.values() for name in names]:\n",
        "        members.extractall(folder.parent)\n"
        "        for name in [name for names in _BATCHES.values() for name in names]:\n",
        "data/datasets/test_array_datasets.py::test_only_expected_files_are_unpacked",
    ),
    Guard(
        "data/decode.py",
        "    except Image.DecompressionBombError:\n",
        "    except ZeroDivisionError:\n",
        "data/test_decode.py::test_decompression_bomb_is_refused_with_the_limit",
    ),
    Guard(
        "evaluation/report/pictures.py",
        ", formats=FORMATS)",
        ")",
        "evaluation/report/test_page.py::test_only_small_png_and_webp_files_of_a_run_are_decoded",
    ),
    Guard(
        "evaluation/report/pictures.py",
        ", Image.DecompressionBombError)",
        ")",
        "evaluation/report/test_page.py::test_only_small_png_and_webp_files_of_a_run_are_decoded",
    ),
    Guard(
        "runs/directory.py",
        "if Path(lock.lock_file).is_symlink():",
        "if False:",
        f"{_FILES}::test_a_lock_that_is_a_link_changes_no_other_file",
    ),
    Guard(
        "runs/directory.py",
        '"_", name).lstrip(".") or "_"',
        '"_", "") or name',
        "commands/test_embed.py::test_the_name_of_a_dataset_is_one_folder_in_the_run",
    ),
    Guard(
        "runs/escaping.py",
        "    return _CONTROLS.sub(",
        "    return text or _CONTROLS.sub(",
        "runs/test_escaping.py",
    ),
    Guard(
        "runs/rich_console.py",
        "    def render(self",
        "    def rendered(self",
        "runs/test_escaping.py::test_a_console_of_rich_escapes_names_and_keeps_its_own_colors",
    ),
    Guard("commands/dashboard.py", "guarded if on_loopback else app", "app", "commands/test_dashboard.py"),
    Guard(
        "commands/loopback.py",
        "    if name not in LOOPBACK:",
        "    if False:",
        "commands/test_dashboard.py commands/explore/test_security.py::test_other_host_names_are_refused",
    ),
    Guard(
        "commands/loopback.py",
        'if origin in (None, f"http://{host}") else',
        "if origin else",
        "commands/explore/test_security.py::test_other_pages_cannot_post",
    ),
    Guard(
        "commands/explore/security.py",
        "not ALLOWED_PATHS.fullmatch(path) or",
        "",
        "commands/explore/test_security.py::test_other_paths_are_not_found",
    ),
    Guard(
        "commands/explore/security.py",
        'REPORT_POLICY if scope["path"].startswith("/report/") else POLICY',
        "POLICY",
        "commands/explore/test_security.py::test_a_report_runs_no_script_and_sends_no_request",
    ),
    Guard(
        "commands/explore/security.py",
        "sandbox; default-src 'none'; style",
        "sandbox; style",
        "commands/explore/test_security.py::test_a_report_runs_no_script_and_sends_no_request",
    ),
    Guard(
        "commands/explore/server.py",
        "listener.bind((HOST, port))",
        'listener.bind(("", port))',
        "commands/explore/test_security.py::test_the_server_listens_on_loopback_only",
    ),
    Guard(
        "commands/explore/uploads.py",
        "    if width * height > MAX_PIXELS:",
        "    if False:",
        "commands/explore/test_uploads.py::test_too_many_pixels_are_refused_before_they_are_decoded",
    ),
    Guard(
        "evaluation/templating.py",
        "autoescape=True",
        "autoescape=False",
        "evaluation/report/test_page.py::test_all_values_are_escaped",
    ),
    Guard(
        "visualization/charts.py",
        '{_color(i, one)}">{escape(one.name)}',
        '{_color(i, one)}">{one.name}',
        "visualization/test_charts.py::test_names_are_escaped",
    ),
)

"""The command line, and errors that a person can fix."""

from mutants import Mutant

MUTANTS = [
    Mutant(
        "missing keys are not told",
        "fastav/check.py",
        "sorted(needed - set(found))",
        "sorted(set())",
        "tests/test_check.py::test_keys_are_compared_with_the_published_ones",
    ),
    Mutant(
        "the CPU allocator's error is like any other",
        "fastav/errors.py",
        '"can\'t allocate memory", "DefaultCPUAllocator", ',
        "",
        "tests/test_faults.py::test_out_of_memory_is_that_questions_error_and_the_run_goes_on",
    ),
    Mutant(
        "a fork says that it was interrupted",
        "fastav/interrupt.py",
        "if os.getpid() == program:",
        "if True:",
        "tests/test_cli.py::test_ctrl_c_is_said_by_the_program_and_not_by_its_forks",
    ),
    Mutant(
        "Ctrl-C is a success",
        "fastav/interrupt.py",
        "os._exit(CODE)",
        "os._exit(0)",
        "tests/test_cli.py::test_ctrl_c_ends_every_command_with_one_line_and_130_at_any_moment",
    ),
    Mutant(
        "a checkpoint that differs is a success",
        "fastav/__main__.py",
        "return 0 if passed else 1",
        "return 0",
        "tests/test_check.py::test_a_checkpoint_that_differs_ends_with_exit_code_1",
    ),
    Mutant(
        "an empty question is asked",
        "fastav/__main__.py",
        "    if not options.question.strip():",
        "    if False:",
        "tests/test_cli.py::test_an_empty_question_is_refused_before_anything_is_loaded",
    ),
]

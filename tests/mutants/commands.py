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
]

"""fastav/page/: what is asked for, checked; what is shown."""

from mutants import Mutant

MUTANTS = [
    Mutant(
        "half a layer is cut off",
        "fastav/page/request.py",
        "(isinstance(value, float) and value.is_integer())",
        "isinstance(value, float)",
        "tests/test_app.py::test_a_setting_that_is_none_is_refused_and_never_changed",
    ),
    Mutant(
        "true is a layer",
        "fastav/page/request.py",
        "if isinstance(value, bool) or not whole or",
        "if not whole or",
        "tests/test_app.py::test_a_setting_that_is_none_is_refused_and_never_changed",
    ),
    Mutant(
        "a link brings settings that the page does not show",
        "fastav/page/request.py",
        "trim, n_layers) != asked:",
        "trim, n_layers) is None:",
        "tests/test_app.py::test_a_link_that_the_page_cannot_show_is_refused",
    ),
    Mutant(
        "a visitor loads any model",
        "fastav/page/sessions.py",
        "if name not in self.offered:",
        "if name not in models.names():",
        "tests/test_app.py::test_a_visitor_cannot_load_a_model_that_the_operator_did_not_offer",
    ),
    Mutant(
        "the operator's checkpoint goes to every model",
        "fastav/page/sessions.py",
        "self.given.checkpoint if name == self.given.model else None",
        "self.given.checkpoint",
        "tests/test_app.py::test_a_model_and_its_checkpoint_come_from_the_command_line",
    ),
    Mutant(
        "a user's mistake is raised on the far side",
        "fastav/page/gpu.py",
        "except UserError as error:",
        "except UserWarning as error:",
        "tests/test_app.py::test_on_zero_gpu_runs_cross_the_border_of_their_process",
    ),
    Mutant(
        "a busy port is found when gradio starts",
        "fastav/page/command.py",
        "error.errno == errno.EADDRINUSE",
        "error.errno == errno.EACCES",
        "tests/test_serving.py::test_a_busy_port_is_one_line",
    ),
    Mutant(
        "weights are not looked for",
        "fastav/page/command.py",
        "if models.adapter_class(name).published:",
        "if not models.adapter_class(name).published:",
        "tests/test_app.py::test_weights_that_cannot_be_found_are_told_before_the_page_is_served",
    ),
]

"""Results of made-up runs, for tables, report and card."""

from worked_example import COUNTS, MATRIX, TRACES

from hf_cl.results.results import (
    IndexListRecord,
    Memory,
    MethodRecord,
    ParameterCounts,
    ProtocolRecord,
    Results,
    SessionRecord,
    Times,
)

CLASSES = [["ant", "bee", "crab"], ["deer", "eel"], ["fox", "gnu"]]
NASTY_NAMES = [
    '<script>alert("x")</script>',
    "a | b ` c * d _e_ [f](http://g.example) <img src=x onerror=alert(1)>",
    "line one\nline two\r\n---\n# heading",
    "قطة سوداء",
    "🦊 fox 👩🏽‍🔬",
    "x" * 10_000,
    "\"quoted\": 'yes' & {{ 7 * 7 }} {% raw %} \u202eevil",
]
ENVIRONMENT = {
    "hf_cl": "0.1.0",
    "torch": "2.14.1",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "python": "3.11.9",
    "platform": "Linux x86_64",
    "devices": ["CPU, 2 cores"],
    "num_processes": 1,
    "mixed_precision": "no",
    "compile": "no",
    "deterministic": False,
    "backbone": "google/vit-base-patch16-224-in21k",
    "backbone_revision": None,
}


def sessions_of(classes, trained=True):
    return [SessionRecord(t, list(names), 300, COUNTS[t % 3], trained or t == 0) for t, names in enumerate(classes)]


def example_results(**changes):
    """The worked example as a whole run: seven classes in three sessions."""
    fields = {
        "protocol": ProtocolRecord(
            name="class_incremental", dataset="animals", num_base_classes=3, classes_per_session=2, class_order="seed", class_order_seed=1
        ),
        "seed": 3,
        "sessions": sessions_of(CLASSES),
        "accuracy_matrix": MATRIX,
        "accuracy_matrix_task_aware": [[0.90], [0.85, 0.90], [0.80, 0.90, 0.95]],
        "accuracy_matrix_within": [[0.90], [0.85, 0.90], [0.80, 0.85, 0.60]],
        "class_accuracy_matrix": [[1.0, 0.9, 0.8], [0.9, 0.8, 0.7, 0.8, 0.6], [0.8, 0.6, 0.4, 0.9, 0.6, 0.5, None]],
        "test_counts": COUNTS,
        "comparisons": {"nearest class mean, no adapter": 0.52},
        "parameters": ParameterCounts(trainable=81_920, total=85_880_576),
        "environment": ENVIRONMENT,
        "times": Times(training=[83.25, 41.5, 40.0], evaluation=[2.5, 3.25, 4.0], total=181.0),
    }
    return Results(**(fields | changes))


def shown_results(**changes):
    """With what the report shows of confusions and memory: 24 images named too late, 5 too early."""
    fields = {
        "method": MethodRecord("ovor", "OVOR"),
        "session_confusion": [[36, 14, 10], [1, 19, 0], [4, 0, 16]],
        "confused_pairs": [[0, 3, 12], [2, 5, 9], [5, 1, 4]],
        "memory": Memory("cuda", [1_200_000_000, 900_000_000, 850_000_000]),
    }
    return example_results(**(fields | changes))


def few_shot_results(**changes):
    protocol = ProtocolRecord(
        name="few_shot_class_incremental",
        dataset="animals",
        num_base_classes=3,
        classes_per_session=2,
        shots=5,
        index_list=IndexListRecord("own_draw"),
    )
    return example_results(**({"protocol": protocol, "sessions": sessions_of(CLASSES, trained=False)} | changes))


def base_to_novel_results(**changes):
    fields = {
        "protocol": ProtocolRecord(name="base_to_novel", dataset="animals", shots=16),
        "seed": 1,
        "sessions": [SessionRecord(0, ["ant", "bee"], 32, 100, True)],
        "test_counts": [60, 40],
        "test_accuracy": {"base": 0.8, "novel": 0.6},
        "environment": ENVIRONMENT,
    }
    return Results(**(fields | changes))


def probed_results():
    """With traces of two sessions, as the worked example has them."""
    two = {
        name: getattr(example_results(), name)[:2] for name in ("accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within")
    }
    return example_results(
        **two,
        class_accuracy_matrix=example_results().class_accuracy_matrix[:2],
        sessions=sessions_of(CLASSES[:2]),
        test_counts=COUNTS[:2],
        times=None,
        continual=TRACES,
    )


def nasty_results(**changes):
    """Class names, comparison and data set that try to break out of every format."""
    names = [NASTY_NAMES[:3], NASTY_NAMES[3:5], NASTY_NAMES[5:]]
    protocol = ProtocolRecord(name="class_incremental", dataset="<b>$x_1$</b>\n---\nlicense: evil", class_order="/home/someone/order.txt")
    comparisons = {"_$\\frac{1}$ | <i>🦊</i>\n" + "y" * 200: 0.5}
    return example_results(**({"sessions": sessions_of(names), "protocol": protocol, "comparisons": comparisons} | changes))


SETTINGS = {
    "dataset": "/home/someone/animals",
    "batch_size": 128,
    "learning_rate": 0.005,
    "mixed_precision": None,
    "gradient_checkpointing": False,
    "optimizer": {"name": "adam", "betas": [0.9, 0.999]},
    "report_to": [],
}

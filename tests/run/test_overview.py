from trained_run import train_digits

from hf_cl.run.overview import overview
from hf_cl.scenarios import SCENARIOS, open_images


def test_a_run_says_what_it_understood():
    scenario = SCENARIOS["class_incremental"](
        open_images("digits"), num_base_classes=6, classes_per_session=2, class_order="natural", class_order_seed=0, validation_fraction=0.0
    )
    sessions = list(scenario)
    images = f"{sum(len(s.train) for s in sessions)} training and {sum(len(t.data) for t in sessions[-1].tests)} test images"
    said = overview(scenario, 2, "cpu")
    assert said == f"digits: 10 classes, {images}, 3 sessions (0, 1, 2, 3, 4, 5 | 6, 7 | 8, 9); 2 processes on cpu."


def test_the_start_and_the_end_of_a_run_on_the_screen(tmp_path, capfd):
    run = train_digits(tmp_path / "run")
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("digits: 10 classes, ") for line in lines)
    assert f"Next: hf-cl predict {run} IMAGE..., hf-cl push {run} OWNER/NAME" in lines

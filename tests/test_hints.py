from hf_cl.hints import nearest


def test_the_nearest_name_is_offered_and_a_far_one_is_not():
    assert nearest("batch_sise", ["seed", "batch_size"]) == " Did you mean 'batch_size'?"
    assert nearest("zebra", ["seed", "batch_size"]) == ""
    assert nearest(3, ["seed"]) == ""  # what a config holds need not be text

"""What noise in predictions costs, and whom a floor saves."""

from exporters.experiments.robustness import noise, starvation


def test_as_predictions_turn_to_noise_the_shrunk_plan_turns_to_uniform(measured):
    rows = noise(measured, measured).rows
    gain = {(row[0], row[1]): [float(cell) for cell in row[3:]] for row in rows}
    assert gain["0", "shrunk"][1] > gain["2", "shrunk"][1] > gain["8", "shrunk"][1] > 0
    assert min(gain["exchanged", "as it is"]) < -2
    # What is left is what the mean curve alone can gain: where it is convex, unequal budgets beat equal ones.
    assert min(gain["exchanged", "shrunk"]) > -1


def test_a_higher_floor_starves_fewer(measured):
    rows = {(row[0], row[1]): row for row in starvation(measured, measured, budget=96).rows}
    share = {floor: float(rows["50%", floor][3].rstrip("%")) for floor in ("16", "48")}
    assert share["48"] < share["16"]
    assert float(rows["0%", "16"][2]) > float(rows["50%", "16"][2])

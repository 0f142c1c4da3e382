"""Alterations of a sound campaign: markers, times, evaluations, order. Each with its rule."""

import copy

MINUTE_MS = 60_000


def replay_run_start(c):
    c.runs["resnet"][1].insert_after("run_start", c.runs["resnet"][1].make("run_start", time_ms=0))
    run = c.runs["resnet"][1]
    run.find("run_start", 1)["time_ms"] = run.find("block_start", 2)["time_ms"]


def stop_twice(c):
    run = c.runs["bert"][4]
    early = copy.deepcopy(run[-1])
    early["time_ms"] -= 5 * MINUTE_MS
    run.insert(-1, early)


def init_stop_twice(c):
    run = c.runs["resnet"][1]
    run.insert_after("init_stop", copy.deepcopy(run.find("init_stop")))


def two_runs_in_a_file(c):
    c.runs["resnet"][0].extend(copy.deepcopy(c.runs["resnet"][1]))


def same_run(c):
    run = copy.deepcopy(c.runs["resnet"][1])
    run.find("seed")["value"] = 77
    c.runs["resnet"][3] = run


def same_curve(c):
    run = copy.deepcopy(c.runs["bert"][1])
    run.find("seed")["value"] = 77
    run.shift(86_400_000)
    for place in range(17):
        run.find("eval_accuracy", place)["time_ms"] += place
    c.runs["bert"][3] = run


def shifted_copy_with_other_accuracies(c):
    run = copy.deepcopy(c.runs["bert"][1])
    run.find("seed")["value"] = 77
    run.shift(86_400_000)
    for place in range(17):
        run.find("eval_accuracy", place)["value"] += 1e-6
    c.runs["bert"][3] = run


def copy_shifted(c):
    run = copy.deepcopy(c.runs["bert"][1])
    run.find("seed")["value"] = 77
    run.shift(86_400_000)
    c.runs["bert"][3] = run
    return run


def copy_with_lines_in_another_order(c):
    run = copy_shifted(c)
    one, other = run.find("eval_accuracy", 5), run.find("eval_accuracy", 6)
    places = run.index(one), run.index(other)
    run[places[0]], run[places[1]] = other, one


def copy_with_a_line_repeated(c):
    run = copy_shifted(c)
    run.insert_after("eval_accuracy", copy.deepcopy(run.find("eval_accuracy", 5)), place=5)


def evaluation_after_stop(c):
    run = c.runs["bert"][6]
    run.find("eval_accuracy", 16)["time_ms"] += 69 * MINUTE_MS


def evaluation_before_start(c):
    run = c.runs["resnet"][2]
    run.find("eval_accuracy", 0)["time_ms"] = run.find("run_start")["time_ms"] - 10


def epochs_before_start(c):
    run = c.runs["resnet"][2]
    run.find("run_start")["time_ms"] = run.find("epoch_start", 1)["time_ms"]


def renumber_evaluations(c, first_points):
    for run in c.runs["resnet"]:
        for place, point in enumerate(first_points):
            for key in ("eval_start", "eval_stop", "eval_accuracy"):
                run.find(key, place)["metadata"]["epoch_num"] = point


def evaluate_late(c):
    renumber_evaluations(c, range(5, 38, 4))


def evaluate_every_epoch_at_the_end(c):
    renumber_evaluations(c, (3, 7, 11, 15, 19, 23, 27, 31, 33))


def skip_an_evaluation(c):
    run = c.runs["resnet"][0]
    run.remove(run.find("eval_accuracy", 4))


def evaluates_a_point_again(benchmark):
    def alter(c):
        run = c.runs[benchmark][2]
        line = copy.deepcopy(run.find("eval_accuracy", 8))
        line.update(value=line["value"] - 0.002, time_ms=line["time_ms"] - 300)
        run.insert_after("eval_accuracy", line, place=7)

    return alter


def bert_points(step):
    def alter(c):
        for place in range(17):
            line = c.runs["bert"][5].find("eval_accuracy", place)
            line["metadata"]["epoch_num"] = step * (place + 1)
        c.runs["bert"][5].find("train_samples")["value"] = step * 17

    return alter


def bert_skips_one(c):
    run = c.runs["bert"][5]
    run.remove(run.find("eval_accuracy", 8))


def bert_one_point_moved(c):
    run = c.runs["bert"][5]
    run.find("eval_accuracy", 8)["metadata"]["epoch_num"] += 60_000


def evaluates_initial_weights(c):
    run = c.runs["bert"][5]
    line = copy.deepcopy(run.find("eval_accuracy"))
    line.update(value=0.01, time_ms=run.find("run_start")["time_ms"] + 100)
    line["metadata"]["epoch_num"] = 0
    run.insert_after("block_start", line)


def long_initialisation(c):
    run = c.runs["resnet"][0]
    run.find("init_start")["time_ms"] = run.find("run_start")["time_ms"] - 30 * MINUTE_MS


def late_start(c):
    c.runs["resnet"][0].find("init_stop")["time_ms"] -= 61_000
    c.runs["resnet"][0].find("init_start")["time_ms"] -= 61_000


def evaluations_swap_times(c):
    run = c.runs["bert"][3]
    one, other = run.find("eval_accuracy", 5), run.find("eval_accuracy", 6)
    one["time_ms"], other["time_ms"] = other["time_ms"], one["time_ms"]


def success_below_target(c):
    c.runs["resnet"][2].find("eval_accuracy", 8)["value"] = 37_900 / 50_000


def target_without_success(c):
    c.runs["resnet"][2].find("run_stop")["metadata"]["status"] = "aborted"


def epoch_clock(c):
    c.runs["resnet"][1].find("tracked_stats", 20)["value"]["throughput"] *= 0.97


def bert_clock(c):
    """A log of this kit whose times were drawn together by a twentieth."""
    run = c.runs["bert"][1]
    start = run.find("run_start")["time_ms"]
    run.insert(0, run.make("source_sha256", "ab" * 32, run[0]["time_ms"]))
    before = (start, 0)
    for place in range(17):
        line = run.find("eval_start", place)
        now, point = line["time_ms"], line["metadata"]["epoch_num"]
        rate = (point - before[1]) / (now - before[0]) * 1000
        run.insert(
            run.index(line), run.make("tracked_stats", {"throughput": rate}, now, step=point)
        )
        before = (now, point)
    return run, start


def bert_times_drawn_together(c):
    run, start = bert_clock(c)
    for line in run[run.index(run.find("run_start")) :]:
        line["time_ms"] = start + int(0.95 * (line["time_ms"] - start))


def fast_stretch(c):
    run = c.runs["bert"][1]
    gain = 14_000
    for line in run[run.index(run.find("eval_start", 9)) :]:
        line["time_ms"] -= gain


def trains_before_the_clock(c):
    run = c.runs["bert"][1]
    gain = 25_000
    for line in run[: run.index(run.find("run_start")) + 1]:
        line["time_ms"] += gain
    for key in ("eval_samples", "epoch_start", "block_start"):
        run.find(key)["time_ms"] += gain


def fast_run(c):
    run = c.runs["resnet"][1]
    start = run.find("run_start")["time_ms"]
    for line in run:
        if line["time_ms"] > start:
            line["time_ms"] = round(start + (line["time_ms"] - start) * 0.93)
    run.drop("tracked_stats")


def clock_back(c):
    run = c.runs["resnet"][1]
    run.find("epoch_stop", 4)["time_ms"] -= 29_000


def overlap(c):
    run = c.runs["resnet"][1]
    run.shift(c.runs["resnet"][0][-1]["time_ms"] - 1000 - run.find("run_start")["time_ms"])


def no_stop(c):
    c.runs["resnet"][3].drop("run_stop")


def no_cache_clear(c):
    c.runs["bert"][3].drop("cache_clear")


def early_cache_clear(c):
    c.runs["bert"][3].find("cache_clear")["time_ms"] -= 30 * MINUTE_MS


def work_after_stop(c):
    run = c.runs["resnet"][3]
    run.append(run.make("epoch_start", None, run[-1]["time_ms"] + 2000, epoch_num=36))


def stops_before_the_pass(c):
    run = c.runs["bert"][3]
    run.find("run_stop")["time_ms"] = run.find("eval_accuracy", 16)["time_ms"] - 900


def evaluates_on(c):
    c.runs["resnet"][3].find("eval_accuracy", 7)["value"] = 38_100 / 50_000


def block_gap(c):
    c.runs["resnet"][3].find("block_start", 4)["metadata"]["first_epoch_num"] = 17


def last_block_longer(c):
    c.runs["resnet"][3].find("block_start", 8)["metadata"]["epoch_count"] = 5


def epoch_skipped(c):
    run = c.runs["resnet"][3]
    run.remove(run.find("epoch_start", 10))


def days_apart(c):
    c.runs["resnet"][4].shift(8 * 86_400_000)


def pause(c):
    c.runs["resnet"][4].shift(3_600_000)


def evaluates_epochs_not_trained(c):
    """Trains 31 epochs and says 35, for which the convergence test allows more speed."""
    run = c.runs["resnet"][1]
    for key in ("block_start", "block_stop"):
        run.drop(key)
    run[:] = [
        line
        for line in run
        if not (line["key"].startswith("epoch_") and line["metadata"]["epoch_num"] > 31)
    ]


def swapped_files(c):
    runs = c.runs["resnet"]
    runs[0], runs[1] = runs[1], runs[0]


ALTERATIONS = [
    ("marker-twice", replay_run_start),
    ("marker-twice", stop_twice),
    ("marker-twice", init_stop_twice),
    ("marker-twice", two_runs_in_a_file),
    ("same-run-twice", same_run),
    ("same-curve-twice", same_curve),
    ("same-run-twice", shifted_copy_with_other_accuracies),
    ("same-curve-twice", copy_with_lines_in_another_order),
    ("same-run-twice", copy_with_lines_in_another_order),
    ("same-curve-twice", copy_with_a_line_repeated),
    ("same-run-twice", copy_with_a_line_repeated),
    ("eval-outside-run", evaluation_after_stop),
    ("eval-outside-run", evaluation_before_start),
    ("work-before-run-start", epochs_before_start),
    ("cadence-resnet", evaluate_late),
    ("cadence-resnet", evaluate_every_epoch_at_the_end),
    ("cadence-resnet", skip_an_evaluation),
    ("cadence-resnet", evaluates_a_point_again("resnet")),
    ("cadence-bert", evaluates_a_point_again("bert")),
    ("cadence-bert", bert_points(175_000)),
    ("cadence-bert", bert_points(140_000)),
    ("cadence-bert", bert_skips_one),
    ("cadence-bert", bert_one_point_moved),
    ("cadence-bert", evaluates_initial_weights),
    ("init-over-30min", long_initialisation),
    ("late-run-start", late_start),
    ("eval-time-order", evaluations_swap_times),
    ("success-below-target", success_below_target),
    ("target-reached-not-success", target_without_success),
    ("epoch-clock", epoch_clock),
    ("epoch-clock", bert_times_drawn_together),
    ("fast-stretch", fast_stretch),
    ("fast-stretch", trains_before_the_clock),
    ("fast-run", fast_run),
    ("clock-back", clock_back),
    ("runs-overlap", overlap),
    ("marker-missing", no_stop),
    ("cache-clear-missing", no_cache_clear),
    ("cache-clear-early", early_cache_clear),
    ("work-after-run-stop", work_after_stop),
    ("work-after-run-stop", stops_before_the_pass),
    ("evals-after-pass", evaluates_on),
    ("block-chain", block_gap),
    ("block-chain", last_block_longer),
    ("epoch-numbering", epoch_skipped),
    ("epoch-numbering", evaluates_epochs_not_trained),
    ("spread-over-7d", days_apart),
    ("idle-gap", pause),
    ("file-order", swapped_files),
]

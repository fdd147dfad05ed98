import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from temporal.data.generated import NeedleSource
from temporal.decisions import Halt, Jump, Mode
from temporal.env import SCALARS, ReadEnv, ReadVectorEnv
from temporal.errors import UserError
from temporal.readers import RecurrentReader

torch.set_num_threads(1)
SOURCE = NeedleSource(num_sequences=64, length=30, num_classes=3, noise=8)
TRAIN = SOURCE.split("train")
DECISIONS = (Halt(), Jump((0, 5)), Mode(("copy", "skim", "full")))
BUDGETS = {"none": {}, "tokens": {"token_budget": 13}, "flops": {"flops_budget": 9000.0}}


def random_reader() -> RecurrentReader:
    torch.manual_seed(0)
    return RecurrentReader(SOURCE.task, embedding_size=8, hidden_size=8, skim_size=3)


def needle_reader(source: NeedleSource) -> RecurrentReader:
    """Answers rightly as soon as it has read the needle, and evenly before: weights set by hand."""
    num = source.task.num_classes
    reader = RecurrentReader(source.task, embedding_size=num, hidden_size=num, skim_size=1, readout=("max",))
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.zero_()
        reader.embedding.weight[1 : 1 + num] = torch.eye(num)
        reader.full_cell.weight_ih_l0[2 * num :] = 5 * torch.eye(num)
        reader.full_cell.bias_ih_l0[num : 2 * num] = -20  # the update gate lets every candidate through
        reader.head.weight.copy_(10 * torch.eye(num))
    return reader


def env_of(kind=ReadEnv, reader=None, **arguments):
    arguments = {"decisions": DECISIONS, "chunk": 4, "price": (0.01, 1.0), "peek": True} | arguments
    return kind(TRAIN, reader or random_reader(), **arguments)


def play(env: ReadEnv, generator: np.random.Generator, **reset) -> tuple[list, list, dict]:
    """Observations, rewards and closing facts of one episode with random actions."""
    observation, info = env.reset(**reset)
    assert info == {}
    observations, rewards, ended = [observation], [], False
    while not ended:
        action = random_action(generator, env.action_space)
        observation, reward, ended, truncated, info = env.step(action)
        assert not truncated
        assert bool(info) == ended
        observations.append(observation)
        rewards.append(reward)
    return observations, rewards, info


def random_action(generator: np.random.Generator, space: gymnasium.spaces.MultiDiscrete) -> np.ndarray:
    """Halts rarely, so that most episodes end otherwise."""
    action = generator.integers(space.nvec)
    action[0] = generator.random() < 0.05
    return action


def scalar(observation: dict, name: str) -> float:
    return observation["scalars"][..., SCALARS.index(name)]


@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("decisions", [(Halt(),), DECISIONS])
def test_gymnasium_finds_nothing_to_complain_about(decisions, peek):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = {"reader": random_reader(), "decisions": decisions, "peek": peek}
        env = gymnasium.make("temporal.env:temporal/Read-v0", source=TRAIN, **arguments)
        assert type(env.unwrapped) is ReadEnv
        check_env(env.unwrapped)


def test_make_vec_makes_the_vector_environment():
    envs = gymnasium.make_vec(
        "temporal/Read-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        source=TRAIN,
        reader=random_reader(),
        decisions=DECISIONS,
    )
    assert type(envs) is ReadVectorEnv
    assert envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.single_action_space == gymnasium.spaces.MultiDiscrete([2, 2, 3])
    assert envs.reset(seed=0)[0] in envs.observation_space


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_observation_lies_in_its_space(budget):
    env, generator = env_of(**BUDGETS[budget]), np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(20):
        for observation in play(env, generator)[0]:
            assert observation in env.observation_space


@pytest.mark.parametrize("task_reward", ["log_likelihood", "correctness", "probability"])
def test_rewards_add_up_to_the_answers_worth_less_what_was_spent(task_reward):
    reader, generator = random_reader(), np.random.default_rng(1)
    env = env_of(reader=reader, task_reward=task_reward, decision_flops=100.0)
    env.reset(seed=2)
    for _ in range(20):
        observations, rewards, info = play(env, generator)
        truth = float(observations[-1]["probabilities"][info["label"]])
        right = float(observations[-1]["probabilities"].argmax() == info["label"])
        worth = {"log_likelihood": math.log(truth), "correctness": right, "probability": truth}[task_reward]
        spent = info["price"] * info["flops"] / reader.full_flops()
        assert sum(rewards) == pytest.approx(worth - spent, rel=1e-9)
        assert info["correct"] == right
        # Each decision costs 100 FLOPs, each answer and each token what the reader says.
        assert info["flops"] >= 100 * len(rewards) + reader.predict_flops


def test_a_hopeless_answer_costs_no_more_than_a_thousandth():
    reader = random_reader()
    with torch.no_grad():
        reader.head.bias += torch.tensor([50.0, 0.0, 0.0])
    env = env_of(reader=reader, price=0.0, decisions=(Halt(),))
    wrong = int((TRAIN.labels != 0).nonzero()[0, 0])
    env.reset(options={"sequence": wrong})
    assert env.step(np.array([1]))[1] == pytest.approx(math.log(1e-3), rel=1e-9)


def test_a_budget_in_tokens_is_spent_to_the_last_and_never_exceeded():
    generator = np.random.default_rng(2)
    for budget in (1, 4, 13):
        env = env_of(token_budget=budget, decisions=(Halt(), Jump((0, 1)), Mode(("skim", "full"))))
        facts = [play(env, generator, seed=i)[2] for i in range(10)]
        assert max(f["tokens"] for f in facts) <= budget
        assert sum(f["tokens"] == budget for f in facts) >= 5


def test_a_budget_in_flops_is_never_exceeded():
    generator, reader = np.random.default_rng(2), random_reader()
    for budget in (reader.predict_flops, 3000.0, 9000.0):
        env = env_of(flops_budget=budget, decision_flops=50.0)
        spent = [play(env, generator, seed=i)[2]["flops"] for i in range(10)]
        assert budget / 3 < max(spent) <= budget


def test_the_share_of_a_budget_that_is_left_is_shown():
    env = env_of(decisions=(Halt(),), token_budget=16)
    first, _ = env.reset(seed=0)
    second = env.step(np.array([0]))[0]
    assert scalar(first, "tokens_left") == 1
    assert scalar(second, "tokens_left") == pytest.approx(0.75)
    assert scalar(second, "flops_left") == 1
    assert scalar(second, "position") == pytest.approx(4 / 30)


def test_the_same_seed_brings_the_same_trajectory():
    one, two = (play(env_of(), np.random.default_rng(3), seed=7) for _ in range(2))
    for mine, theirs in zip(one[0], two[0], strict=True):
        assert all((mine[name] == theirs[name]).all() for name in mine)
    assert one[1:] == two[1:]
    env = env_of()
    sequences = [play(env, np.random.default_rng(3), seed=seed)[2]["sequence"] for seed in range(8)]
    assert len(set(sequences)) > 1


def test_prices_are_drawn_log_uniformly_and_shown():
    env = env_of(decisions=(Halt(),), price=(0.01, 1.0))
    env.reset(seed=0)
    prices = []
    for _ in range(200):
        observation, _ = env.reset()
        prices.append(env.step(np.array([1]))[4]["price"])
        shown = 2 * math.log(prices[-1] / 0.003) / math.log(10 / 0.003) - 1
        assert scalar(observation, "price") == pytest.approx(shown, abs=1e-6)
    logarithms = (np.log(prices) - math.log(0.01)) / math.log(100)
    assert 0 <= logarithms.min() < 0.05
    assert 0.95 < logarithms.max() <= 1
    # A uniform's mean over 200 draws is within 0.1 of a half in all but one of a million cases.
    assert logarithms.mean() == pytest.approx(0.5, abs=0.1)


def test_reset_options_choose_the_sequence_and_the_price():
    env = env_of(decisions=(Halt(),), price=0.2)
    facts = []
    for options in ({"sequence": 5}, {"sequence": 6, "price": 0.7}, {"price": 0.7}):
        env.reset(seed=0, options=options)
        facts.append(env.step(np.array([1]))[4])
    assert [f["sequence"] for f in facts[:2]] == [5, 6]
    assert [f["price"] for f in facts] == [0.2, 0.7, 0.7]


def test_peeking_shows_the_next_chunk_and_nothing_after_the_end():
    env = env_of(decisions=(Halt(), Jump((0, 5))))
    first, _ = env.reset(options={"sequence": 3})
    second = env.step(np.array([0, 1]))[0]
    last = env.step(np.array([1, 0]))[0]
    tokens = TRAIN.fetch(torch.tensor([3]), torch.tensor([0]), torch.tensor([30]), 30).tokens[0].numpy()
    assert (first["peek"] == tokens[:4]).all()
    assert (second["peek"] == tokens[9:13]).all()  # 5 passed over, 4 read
    assert (last["peek"] == 0).all()


def test_what_the_user_does_to_an_observation_does_not_reach_the_slots():
    def reward(spoil: bool) -> float:
        env = env_of(decisions=(Halt(),))
        observation, _ = env.reset(seed=4)
        for part in observation.values():
            part[...] = 0 if spoil else part
        return env.step(np.array([1]))[1]  # for the very answer that was shown

    assert reward(spoil=True) == reward(spoil=False)


def test_the_reader_is_left_without_gradients_and_in_evaluation_mode():
    reader = random_reader().train()
    play(env_of(reader=reader), np.random.default_rng(0), seed=0)
    assert not reader.training
    assert all(parameter.grad is None for parameter in reader.parameters())


def run_vector(envs: ReadVectorEnv, num_episodes: int, seed: int) -> dict[int, tuple[list, list, dict]]:
    """The first episodes of a vector environment, in the form of `play`, by the order in which they began."""
    observation, _ = envs.reset(seed=seed)
    episode = list(range(envs.num_envs))
    began = envs.num_envs
    generators = {i: np.random.default_rng([9, i]) for i in episode}
    runs: dict[int, tuple[list, list, dict]] = {i: ([rows(observation, i)], [], {}) for i in episode}
    while min(episode) < num_episodes:
        actions = np.stack([random_action(generators[e], envs.single_action_space) for e in episode])
        observation, rewards, ended, truncated, infos = envs.step(actions)
        assert observation in envs.observation_space
        assert not truncated.any()
        assert ("final_info" in infos) == ended.any()
        for slot in range(envs.num_envs):
            observations, earned, facts = runs[episode[slot]]
            earned.append(float(rewards[slot]))
            if not ended[slot]:
                observations.append(rows(observation, slot))
                continue
            observations.append(infos["final_obs"][slot])
            final = infos["final_info"]
            facts.update({k: v[slot] for k, v in final.items() if not k.startswith("_")})
            episode[slot], began = began, began + 1
            generators[episode[slot]] = np.random.default_rng([9, episode[slot]])
            runs[episode[slot]] = ([rows(observation, slot)], [], {})
    return runs


def rows(observation: dict, slot: int) -> dict:
    return {name: values[slot] for name, values in observation.items()}


@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("budget", BUDGETS)
def test_slots_side_by_side_read_the_same_episodes_as_one_alone(budget, num_envs):
    runs = run_vector(env_of(ReadVectorEnv, num_envs=num_envs, **BUDGETS[budget]), num_episodes=12, seed=5)
    env = env_of(**BUDGETS[budget])
    env.reset(seed=5)
    env.np_random = np.random.default_rng(5)  # the seed's first episode is reset's own
    for i in range(12):
        observations, rewards, info = play(env, np.random.default_rng([9, i]))
        theirs = runs[i]
        assert theirs[2] == info | {"price": pytest.approx(info["price"])}
        assert theirs[1] == pytest.approx(rewards, rel=1e-5, abs=1e-7)
        assert len(theirs[0]) == len(observations)
        for mine, other in zip(observations, theirs[0], strict=True):
            # Products of matrices of other shapes round otherwise.
            assert all(np.allclose(mine[name], other[name], atol=1e-5) for name in mine)


def test_what_ends_is_told_as_gymnasium_tells_it():
    arguments = {"decisions": (Halt(),), "price": 0.1}
    ours = env_of(ReadVectorEnv, num_envs=2, **arguments)
    theirs = SyncVectorEnv([lambda: env_of(**arguments)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    infos = []
    for envs in (ours, theirs):
        envs.reset(seed=0)
        observation, _, ended, _, info = envs.step(np.array([[1], [0]]))
        assert ended.tolist() == [True, False]
        assert scalar(observation, "position").tolist() == pytest.approx([0, 4 / 30])
        observation, _, ended, _, _ = envs.step(np.array([[0], [0]]))
        assert scalar(observation, "position").tolist() == pytest.approx([4 / 30, 8 / 30])
        infos.append(info)

    def form(info: object) -> object:
        if isinstance(info, dict):
            return {name: form(value) for name, value in info.items()}
        return info.dtype, info.shape

    assert form(infos[0]) == form(infos[1])
    for info in infos:
        assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [True, False]
        assert info["final_obs"][1] is None
        assert info["final_info"]["halted"].tolist() == [True, False]


def test_a_step_before_reset_or_after_the_end_asks_for_a_reset():
    new, many, ended = env_of(), env_of(ReadVectorEnv, num_envs=2), env_of()
    ended.reset()
    ended.step(np.array([1, 0, 0]))
    for env, action in ((new, np.zeros(3, int)), (many, np.zeros((2, 3), int)), (ended, np.zeros(3, int))):
        with pytest.raises(gymnasium.error.ResetNeeded) as error:
            env.step(action)
        assert str(error.value) == "env: no sequence is being read; call reset first"


PRICE = "expected a number from 0 up, or (low, high) with 0 < low <= high"
BAD = [
    ({"price": -0.1}, f"env: price, got -0.1; {PRICE}"),
    ({"price": math.inf}, f"env: price, got inf; {PRICE}"),
    ({"price": math.nan}, f"env: price, got nan; {PRICE}"),
    ({"price": (0.0, 1.0)}, f"env: price, got (0.0, 1.0); {PRICE}"),
    ({"price": (1.0, 0.1)}, f"env: price, got (1.0, 0.1); {PRICE}"),
    ({"price": (0.1, 0.2, 0.3)}, f"env: price, got (0.1, 0.2, 0.3); {PRICE}"),
    ({"token_budget": 0}, "plan: budget in tokens, got 0.0; expected a number from 1 up"),
    ({"flops_budget": 5.0}, "reading: budget in FLOPs, got 5.0; expected 96 or more, the cost of one answer"),
    ({"chunk": 0}, "reading: num_slots and chunk, got (1, 0); expected whole numbers from 1 up"),
    ({"decision_flops": -1.0}, "env: decision_flops, got -1.0; expected a number from 0 up"),
    (
        {"task_reward": "correct"},
        "reward: task_reward, got 'correct'; expected one of log_likelihood, correctness, probability; "
        "did you mean 'correctness'?",
    ),
    (
        {"decisions": (Mode(("skin",)),)},
        "Mode: name, got 'skin'; expected one of the reader's modes copy, skim, full; did you mean 'skim'?",
    ),
    ({"decisions": ()}, "scheme: decisions, got []; expected one or more, each kind at most once"),
    ({"kind": ReadVectorEnv, "num_envs": 0}, "env: num_envs, got 0; expected a whole number from 1 up"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(UserError) as error:
        env_of(**arguments)
    assert str(error.value) == text


def test_sources_that_cannot_be_judged_are_refused():
    class Changed:
        lengths, fetch, labels = TRAIN.lengths, TRAIN.fetch, TRAIN.labels
        num = len(TRAIN)

        def __len__(self) -> int:
            return self.num

    unlabelled, empty, foreign = Changed(), Changed(), Changed()
    unlabelled.labels, empty.num = None, 0
    foreign.labels = torch.tensor([0, 2, 3] + [0] * (len(TRAIN) - 3))
    texts = [
        "env: labels of the source, got None; expected a class index for each sequence",
        "env: sequences in the source, got 0; expected 1 or more",
        "env: label of sequence 2, got 3; expected 0 to 2, the reader's classes",
    ]
    for source, text in zip((unlabelled, empty, foreign), texts, strict=True):
        with pytest.raises(UserError) as error:
            ReadEnv(source, random_reader())
        assert str(error.value) == text


def test_bad_options_and_actions_are_named():
    one, many = env_of(), env_of(ReadVectorEnv, num_envs=2)
    one.reset(seed=0)
    many.reset(seed=0)
    several = "2 actions of 3 whole numbers each"
    attempts = [
        (
            lambda: one.reset(options={"sequense": 1}),
            "env: option, got 'sequense'; expected sequence or price; did you mean 'sequence'?",
        ),
        (
            lambda: one.reset(options={"sequence": 64}),
            "env: option sequence, got 64; expected a whole number from 0 to 63",
        ),
        (
            lambda: one.reset(options={"price": -1.0}),
            "plan: price, got -1.0; expected a number from 0 up",
        ),
        (lambda: many.reset(options={"price": 1.0}), "env: option, got 'price'; expected none"),
        (
            lambda: one.step(np.array([0, 2, 0])),
            "env: action in slot 0, got [0, 2, 0]; expected whole numbers from 0 up, below [2, 2, 3]",
        ),
        (
            lambda: many.step(np.array([[0, 0, 0], [0, -1, 0]])),
            "env: action in slot 1, got [0, -1, 0]; expected whole numbers from 0 up, below [2, 2, 3]",
        ),
        (lambda: many.step(np.zeros((2, 2), int)), f"env: actions of shape, got (2, 2); expected {several}"),
    ]
    for attempt, text in attempts:
        with pytest.raises(UserError) as error:
            attempt()
        assert str(error.value) == text


def needle_env() -> ReadEnv:
    source = NeedleSource(num_sequences=256, length=32, num_classes=4)
    arguments = {"chunk": 8, "price": 0.3, "task_reward": "correctness"}
    return ReadEnv(source.split("train"), needle_reader(source), (Halt(),), **arguments)


def mean_return(env: ReadEnv, act, num_episodes: int = 200) -> float:
    total = 0.0
    observation, _ = env.reset(seed=123)
    for _ in range(num_episodes):
        ended = False
        while not ended:
            observation, reward, ended, _, _ = env.step(act(observation))
            total += reward
        observation, _ = env.reset()
    return total / num_episodes


def test_the_needle_reader_knows_the_answer_once_it_has_read_the_needle():
    returns = mean_return(
        needle_env(), lambda observation: observation["probabilities"].max(keepdims=True) > 0.9
    )
    # Always right, after 2.5 of 4 chunks on average; drawing 200 needles moves that by 0.06, answers add 0.02.
    assert 1 - 0.3 * 0.7 < returns < 1 - 0.3 * 0.56


def test_stable_baselines_trains_on_it_unchanged():
    sb3 = pytest.importorskip("stable_baselines3")
    env = env_of(chunk=4)
    model = sb3.PPO("MultiInputPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    changed = [bool((a != b).any()) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())


@pytest.mark.slow
def test_stable_baselines_learns_to_halt_when_it_knows():
    sb3 = pytest.importorskip("stable_baselines3")
    generator = np.random.default_rng(0)
    settings = {
        "n_steps": 256,
        "n_epochs": 5,
        "learning_rate": 1e-3,
        "gamma": 1.0,
        "seed": 0,
        "device": "cpu",
    }
    model = sb3.PPO("MultiInputPolicy", needle_env(), **settings)
    model.learn(2560)
    chance = mean_return(needle_env(), lambda _: generator.integers(2, size=1))
    read_all = mean_return(needle_env(), lambda _: np.array([0]))
    learnt = mean_return(needle_env(), lambda observation: model.predict(observation, deterministic=True)[0])
    # Known: reading all is worth 0.69, halting at the needle 0.80; halting at random mostly misses it.
    assert chance < 0.5
    assert learnt > max(chance, read_all) + 0.05

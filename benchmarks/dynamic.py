"""Dynamic topics: words of rows of known times, of the next year, and planted drifts.

Every contender runs alone in a fresh process, with two threads or ``--threads``
(`measure`). "fit" is training, its start included; "CPU s" is the time of all threads
in it. Completion is
``metrics.completion_perplexity``, seed 0. Settings are the defaults, for all data.

completion
    nyt_topmost, 11 years: test rows, with their times, beside our LDA, which has none.
    With ``--validate`` rows are fitted without 500 of the training rows (those of
    ``neural_topics``), which are scored in place of test rows.
forecast
    The next year: of nyt_topmost, rows of the earlier years in ``train`` are fitted,
    and all rows of the year, in ``train`` and ``test``, completed with the topics of
    ``forecast``; beside our LDA. Years are numbered from 0.
sotu
    Addresses from 1790 to 2020 by decade; rows of fold 0 are held out.
peers
    gensim's LdaSeqModel, on 500 rows and the 1,000 most frequent columns of
    nyt_topmost, and tomotopy's DTModel on all of them; and ours on the same. The
    peers' passes are those of ``CONTENDERS``, or ``--iterations``; ``--set`` gives
    tomotopy's other variances and step sizes, which ``--validate`` compares.
planted
    Topics whose mass moves from half of their words to others: total variation between
    what was planted and what is found, averaged over topics and slices; and that of
    topics which do not change from the planted ones.
"""

import argparse
import time

import numpy as np
from scipy import sparse

from benchmarks import data, measure, neural_topics

PARTS = ("completion", "forecast", "sotu", "peers", "planted")
COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "CPU s": ("cpu_seconds", 1),
    "peak MiB": ("peak_mib", 0),
    "completion": ("completion", 1),
    "variance": ("variance", 3),
    "passes": ("passes", 0),
}
PLANTED_COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "CPU s": ("cpu_seconds", 1),
    "apart": ("apart", 3),
    "static": ("static", 3),
}
PLANTED = {"n_rows": 5000, "n_words": 100, "k": 10, "n_slices": 10, "n_features": 500}
QUICK = {"n_rows": 60, "n_words": 20, "k": 2, "n_slices": 3, "n_features": 12}

# Steps on the proportions of a row.
N_STEPS = 100


class Job:
    """Rows to fit and to complete, with their times."""

    def __init__(self, meter, task, k, seed, quick, validate=False, year=None):
        self.meter, self.k, self.seed, self.quick = meter, k, seed, quick
        if task == "sotu":
            X, folder = data.counts("sotu", "all"), data.folder() / "sotu"
            times = np.load(folder / "years.npy") // 10 * 10
            is_held = np.load(folder / "fold.npy") == 0
            self.train, self.times = X[~is_held], times[~is_held]
            self.test, self.test_times = X[is_held], times[is_held]
            return
        self.train, self.times = counts_and_times("train")
        self.test, self.test_times = counts_and_times("test")
        if validate:
            _, _, order = neural_topics.split("nyt_topmost")
            self._keep(order[500:], order[:500])
        if task == "forecast":
            both = sparse.vstack([self.train, self.test]).tocsr()
            times = np.append(self.times, self.test_times)
            is_next, is_before = times == year, self.times < year
            self.train, self.times = self.train[is_before], self.times[is_before]
            self.test, self.test_times = both[is_next], times[is_next]
        if task == "small":
            rng = np.random.default_rng(0)
            rows = np.sort(rng.permutation(self.train.shape[0])[:500])
            totals = np.asarray(self.train.sum(axis=0)).ravel()
            columns = np.sort(np.argsort(-totals, kind="stable")[:1000])
            self.train, self.times = self.train[rows][:, columns], self.times[rows]
            self.test = self.test[:, columns]

    def _keep(self, rows, held):
        self.test, self.test_times = self.train[held], self.times[held]
        self.train, self.times = self.train[rows], self.times[rows]

    def completion(self, topics, alpha):
        """Perplexity of hidden words by topics of each slice, (n_slices, k, v)."""
        from skdeepfactor.metrics import split_tokens

        observed, hidden = split_tokens(self.test, random_state=0)
        numbers = np.searchsorted(np.unique(self.times), self.test_times)
        log_p = 0.0
        for number, of_slice in enumerate(topics):
            rows = np.flatnonzero(np.minimum(numbers, len(topics) - 1) == number)
            if len(rows):
                theta = proportions(observed[rows], of_slice, alpha)
                x = sparse.coo_array(hidden[rows])
                p = np.einsum("nk,kn->n", theta[x.row], of_slice[:, x.col])
                log_p += x.data @ np.log(np.maximum(p, 1e-12))
        return float(np.exp(-log_p / hidden.sum()))


def counts_and_times(split):
    """Rows of nyt_topmost and their years."""
    times = np.load(data.folder() / "nyt_topmost" / f"{split}_times.npy")
    return data.counts("nyt_topmost", split), times


def proportions(X, topics, alpha):
    """Proportions of the topics in rows, (n_rows, k), by collapsed updates."""
    X, k = sparse.csr_array(X), len(topics)
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    words = topics.T[X.indices]
    theta = np.ones((X.shape[0], k))
    for _ in range(N_STEPS):
        ratio = X.astype(float)
        ratio.data /= np.einsum("nk,nk->n", theta[row], words)
        theta = alpha + theta * (ratio @ topics.T)
    return theta / theta.sum(axis=1, keepdims=True)


def dynamic(job, is_forecast=False, **parameters):
    """Fit ours."""
    from skdeepfactor import DynamicTopicModel
    from skdeepfactor.metrics import completion_perplexity

    if job.quick:
        parameters["max_iter"] = 1
    model = DynamicTopicModel(job.k, random_state=job.seed, **parameters)
    started = time.process_time()
    with job.meter("fit"):
        model.fit(job.train, times=job.times)
    spent = time.process_time() - started
    if is_forecast:
        topics = model.forecast(job.test_times[:1])
        completion = job.completion(topics, model.doc_topic_prior_)
    else:
        completion = completion_perplexity(
            model, job.test, random_state=0, times=job.test_times
        )
    return {
        "cpu_seconds": spent,
        "passes": model.n_iter_,
        "variance": model.chain_variance_,
        "completion": completion,
    }


def lda(job):
    """Fit our LDA, which ignores times."""
    from skdeepfactor import LatentDirichletAllocation
    from skdeepfactor.metrics import completion_perplexity

    model = LatentDirichletAllocation(job.k, random_state=job.seed)
    started = time.process_time()
    with job.meter("fit"):
        model.fit(job.train)
    return {
        "cpu_seconds": time.process_time() - started,
        "passes": model.n_iter_,
        "completion": completion_perplexity(model, job.test, random_state=0),
    }


def gensim_seq(job, iterations):
    """Fit gensim's sequential LDA, of rows in order of time."""
    from gensim.matutils import Sparse2Corpus
    from gensim.models import LdaSeqModel

    order = np.argsort(job.times, kind="stable")
    corpus = list(Sparse2Corpus(job.train[order], documents_columns=False))
    names = {column: str(column) for column in range(job.train.shape[1])}
    started = time.process_time()
    with job.meter("fit"):
        model = LdaSeqModel(
            corpus,
            time_slice=np.unique(job.times, return_counts=True)[1].tolist(),
            id2word=names,
            num_topics=job.k,
            em_min_iter=1,
            em_max_iter=1 if job.quick else iterations,
            random_state=job.seed,
        )
    spent = time.process_time() - started
    # Logarithms, (k, n_features, n_slices).
    log_p = np.stack([chain.e_log_prob for chain in model.topic_chains])
    topics = np.exp(log_p).transpose(2, 0, 1)
    topics /= topics.sum(axis=2, keepdims=True)
    # Its own alpha, .01, or that of ours, whichever suits it better.
    found = min(job.completion(topics, alpha) for alpha in (0.01, 0.03, 0.1))
    return {"cpu_seconds": spent, "passes": iterations, "completion": found}


def tomotopy_dtm(job, iterations, workers=measure.THREADS, **parameters):
    """Fit tomotopy's dynamic topic model, by stochastic gradient Langevin dynamics."""
    import tomotopy

    from benchmarks.topics import words

    distinct, numbers = np.unique(job.times, return_inverse=True)
    n_slices = len(distinct)
    model = tomotopy.DTModel(
        k=job.k, t=n_slices, seed=job.seed, min_cf=0, rm_top=0, **parameters
    )
    train = words(job.train)
    started = time.process_time()
    with job.meter("fit"):
        for row, number in zip(train, numbers, strict=True):
            model.add_doc(row, timepoint=int(number), ignore_empty_words=True)
        model.train(2 if job.quick else iterations, workers=workers)
    spent = time.process_time() - started
    columns = [int(word) for word in model.used_vocabs]
    topics = np.full((n_slices, job.k, job.train.shape[1]), 1e-12)
    for number in range(n_slices):
        for topic in range(job.k):
            found = model.get_topic_word_dist(topic, timepoint=number)
            topics[number, topic, columns] = found
    topics /= topics.sum(axis=2, keepdims=True)
    found = min(job.completion(topics, alpha) for alpha in (0.01, 0.03, 0.1))
    return {"cpu_seconds": spent, "passes": iterations, "completion": found}


# part: task, topics, and the contenders by name, as functions and parameters.
CONTENDERS = {
    "completion": ("all", 50, {"ours": (dynamic, {}), "ours LDA": (lda, {})}),
    "forecast": (
        "forecast",
        50,
        {"ours": (dynamic, {"is_forecast": True}), "ours LDA": (lda, {})},
    ),
    "sotu": ("sotu", 30, {"ours": (dynamic, {}), "ours LDA": (lda, {})}),
    "small": (
        "small",
        10,
        {"ours": (dynamic, {}), "gensim": (gensim_seq, {"iterations": 3})},
    ),
    "large": (
        "all",
        50,
        {
            "ours": (dynamic, {}),
            "tomotopy": (tomotopy_dtm, {"iterations": 400}),
        },
    ),
}


def contend(meter, part, contender, seed, quick, **options):
    """Fit and evaluate one contender; runs in its own process."""
    task, k, contenders = CONTENDERS[part]
    function, parameters = contenders[contender]
    if quick:
        k = 2
    parameters = {**parameters, **options.pop("parameters", {})}
    return function(Job(meter, task, k, seed, quick, **options), **parameters)


def simulated(seed, n_rows, n_words, k, n_slices, n_features):
    """Counts, times and topics by slice, half of whose mass moves to other words."""
    rng = np.random.default_rng(seed)
    first, last, stays = rng.dirichlet(np.full(n_features, 0.1), size=(3, k))
    share = np.linspace(0, 1, n_slices)[:, np.newaxis, np.newaxis]
    topics = 0.5 * stays + 0.5 * ((1 - share) * first + share * last)
    times = rng.integers(n_slices, size=n_rows)
    theta = rng.dirichlet(np.full(k, 0.1), size=n_rows)
    X = np.empty((n_rows, n_features), dtype=np.int64)
    for number in range(n_slices):
        rows = times == number
        p = theta[rows] @ topics[number]
        X[rows] = rng.multinomial(n_words, p / p.sum(axis=1, keepdims=True))
    return sparse.csr_matrix(X), times, topics


def recover(meter, seed, sizes):
    """Fit planted drifts, and compare topics; runs in its own process."""
    from skdeepfactor import DynamicTopicModel
    from skdeepfactor.inspection import match_components

    X, times, topics = simulated(seed, **sizes)
    model = DynamicTopicModel(len(topics[0]), random_state=seed)
    started = time.process_time()
    with meter("fit"):
        model.fit(X, times=times)
    spent = time.process_time() - started
    order = match_components(topics.mean(axis=0), model.components_)[0][:, 1]

    def apart(found):
        return float(0.5 * np.abs(found - topics).sum(axis=2).mean())

    return {
        "cpu_seconds": spent,
        "apart": apart(model.topics_over_time_[:, order]),
        "static": apart(topics.mean(axis=0)),
    }


def main(argv):
    """Run the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks dynamic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="contenders, such as 'ours LDA'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--years", nargs="+", type=int, default=[10, 8])
    parser.add_argument("--validate", action="store_true", help="see completion")
    parser.add_argument("--iterations", type=int, help="passes of the peers")
    measure.add_settings(parser, "--set", "tomotopy's")
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument("--quick", action="store_true", help="toy sizes, one pass")
    chosen = parser.parse_args(argv)
    results = []
    of_peers = {"gensim": {"iterations": chosen.iterations}}
    of_peers["tomotopy"] = {
        "iterations": chosen.iterations,
        "workers": chosen.threads,
        **dict(chosen.set),
    }

    def run(function, setting, label):
        place = f"benchmarks.dynamic:{function}"
        measured = measure.run(place, setting, threads=chosen.threads)
        results.append({"contender": label, **setting, **measured})
        # A long run that is cut short keeps what it has.
        measure.write_results("dynamic", argv, results, seeds=chosen.seeds)
        return results[-1]

    def compete(part, title, **options):
        rows = []
        for contender in CONTENDERS[part][2]:
            if chosen.only and contender not in chosen.only:
                continue
            told = of_peers.get(contender, {}).items()
            parameters = {name: value for name, value in told if value is not None}
            given = {"parameters": parameters, **options}
            for seed in chosen.seeds:
                setting = {"part": part, "contender": contender, "seed": seed}
                setting |= {"quick": chosen.quick, **given}
                rows.append(run("contend", setting, contender))
        print(f"\n{title}")
        measure.print_contenders(rows, COLUMNS)

    if set(chosen.parts) - {"planted"}:
        data.folder()
    if "completion" in chosen.parts:
        compete("completion", "nyt_topmost, 50 topics", validate=chosen.validate)
    if "forecast" in chosen.parts:
        for year in chosen.years:
            compete("forecast", f"year {year} of nyt_topmost, 50 topics", year=year)
    if "sotu" in chosen.parts:
        compete("sotu", "sotu by decade, 30 topics")
    if "peers" in chosen.parts:
        compete("small", "500 rows x 1,000 columns of nyt_topmost, 10 topics")
        compete("large", "nyt_topmost, 50 topics", validate=chosen.validate)
    if "planted" in chosen.parts:
        sizes = QUICK if chosen.quick else PLANTED
        rows = [
            run("recover", {"seed": seed, "sizes": sizes}, "planted drifts")
            for seed in chosen.seeds
        ]
        print(f"\nplanted drifts, {sizes}")
        measure.print_contenders(rows, PLANTED_COLUMNS)

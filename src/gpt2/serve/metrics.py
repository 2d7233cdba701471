"""Prometheus metrics: vLLM's names and units under our prefix, so that its dashboards port by renaming."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from gpt2.generation import Counts, Statistics

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_COUNTS = (1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """Every metric of one server, in a registry of its own: two servers in a process do not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # each would add a second series, which nobody reads
        self.registry = CollectorRegistry()
        model = ("model_name",)

        def counter(name: str, help: str, labels: tuple[str, ...] = model) -> Counter:
            return Counter(f"gpt2_{name}", help, labels, registry=self.registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"gpt2_{name}", help, model, registry=self.registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"gpt2_{name}", help, model, buckets=buckets, registry=self.registry)

        self.running = gauge("num_requests_running", "Requests that hold a place.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a place.")
        self.waiting_tokens = gauge("num_tokens_waiting", "Tokens that the waiting requests may come to.")
        self.cache_usage = gauge("kv_cache_usage_perc", "Share of the places for sequences that is taken, 0 to 1.")
        self.cache_bytes = gauge("kv_cache_bytes", "Memory that keys and values take.")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens that it held.")
        self.drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted by speculation.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Of these, tokens that were right.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of answered requests.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated, for whoever left too.")
        self.success = counter("request_success", "Sequences that ended.", ("model_name", "finished_reason"))
        self.cancelled = counter("request_cancelled", "Requests that the client left before their end.")
        self.failed = counter("request_failed", "Requests that ended in a fault of the server.")
        self.rejected = counter("request_rejected", "Requests refused for lack of room.", ("model_name", "limit"))
        self.steps = counter("engine_steps", "Steps computed.")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self.inter_token = histogram("inter_token_latency_seconds", "Between tokens of a sequence.", _STEP_SECONDS)
        self.latency = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _SECONDS)
        self.queue_time = histogram("request_queue_time_seconds", "From arrival to a place.", _SECONDS)
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.request_generation_tokens = histogram("request_generation_tokens", "Tokens generated for it.", _TOKENS)
        self.request_n = histogram("request_params_n", "n of a request.", _COUNTS)
        self.request_max_tokens = histogram("request_params_max_tokens", "max_tokens of a request.", _TOKENS)
        self.http = counter("http_requests", "Answers by path and status.", ("path", "status"))
        self.response = Histogram(
            "gpt2_http_response_seconds",
            "From a request's arrival to the head of its answer.",
            ("path", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )

        self._of: dict[str, ModelMetrics] = {}
        self._counts: dict[str, Counts] = {}  # a scheduler's counts at the last `take`

    def of(self, model_name: str) -> "ModelMetrics":
        """The metrics of one model, looked up once."""
        found = self._of.get(model_name)
        if found is None:
            found = self._of[model_name] = ModelMetrics(self, model_name)
        return found

    def take(self, model_name: str, now: Statistics, *, places: int) -> None:
        """Bring the metrics of a scheduler up to date."""
        before, counts = self._counts.get(model_name, Counts()), now.counts
        self._counts[model_name] = counts
        self.running.labels(model_name).set(now.running)
        self.waiting.labels(model_name).set(now.waiting)
        self.cache_usage.labels(model_name).set(min(1.0, now.sequences / places))
        self.cache_bytes.labels(model_name).set(now.kv_bytes)
        found = counts.prefix_tokens - before.prefix_tokens
        self.prefix_hits.labels(model_name).inc(found)
        self.prefix_queries.labels(model_name).inc(found + counts.prompt_tokens - before.prompt_tokens)
        self.drafted.labels(model_name).inc(counts.drafted_tokens - before.drafted_tokens)
        self.accepted.labels(model_name).inc(counts.accepted_tokens - before.accepted_tokens)
        self.generation_tokens.labels(model_name).inc(counts.generated_tokens - before.generated_tokens)
        self.steps.labels(model_name).inc(counts.steps - before.steps)

    def text(self) -> bytes:
        """Every metric in Prometheus's text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics that requests to one model change."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._success = metrics.success
        self._name = name
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.cancelled = metrics.cancelled.labels(name)
        self.failed = metrics.failed.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.inter_token = metrics.inter_token.labels(name)
        self.latency = metrics.latency.labels(name)
        self.queue_time = metrics.queue_time.labels(name)
        self.request_prompt_tokens = metrics.request_prompt_tokens.labels(name)
        self.request_generation_tokens = metrics.request_generation_tokens.labels(name)
        self.request_n = metrics.request_n.labels(name)
        self.request_max_tokens = metrics.request_max_tokens.labels(name)

    def success(self, reason: str) -> Counter:
        """The counter of sequences that ended for this reason."""
        return self._success.labels(self._name, reason)

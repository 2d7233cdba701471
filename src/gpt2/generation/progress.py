"""Advances a job when rows come back: draws tokens, extends texts, ends samples, chooses the best of them."""

from collections.abc import Sequence
from dataclasses import replace

from gpt2.backends.seam import Result
from gpt2.generation.job import Job, Sample
from gpt2.generation.requests import Event, TokenLogprob
from gpt2.generation.sampler import best_of_rows
from gpt2.generation.text import TextStream
from gpt2.tokenizer import Tokenizer


def score_prompt(job: Job, targets: Sequence[int], result: Result) -> None:
    """Record the log-probabilities of some tokens of the prompt."""
    assert result.target_logprobs_R is not None
    top = best_of_rows(result) or [()] * len(targets)
    logprobs = result.target_logprobs_R.tolist()
    job.scored += [TokenLogprob(*entry) for entry in zip(targets, logprobs, top, strict=True)]


def begin_samples(job: Job, tokenizer: Tokenizer) -> None:
    """After the prompt is read, give its slot to the first sample and a fork to each other one."""
    assert job.reading is not None
    begin = job.request.constraint.begin if job.request.constraint else lambda: None
    n = job.sampling.candidates
    parts = [(TextStream(tokenizer, job.sampling.stop), begin()) for _ in range(n)]
    first, job.reading = job.reading, None
    for index, (stream, follower) in enumerate(parts):
        sequence = first if index == 0 else first.fork()
        job.samples.append(Sample(index=index, sequence=sequence, stream=stream, follower=follower))


def extend(job: Job, sample: Sample, result: Result, row: int) -> Event:
    """Draw the next token of a sample, and check whether the text ends there."""
    allowed = None if sample.follower is None else sample.follower.allowed()
    choice = job.sampler.choose(result, row, sample.sequence.ids, sample.index, allowed=allowed)
    if sample.follower is not None:
        sample.follower.advance(choice.token)
    sample.sequence.ids.append(choice.token)
    sample.n_tokens += 1
    sample.logprob_sum += choice.logprob or 0.0
    text, stop, reason = "", None, None
    if choice.token in job.end_ids:
        text, stop = sample.stream.finish()
        stop, reason = (choice.token if stop is None else stop), "stop"
    else:
        if sample.n_tokens < job.sampling.min_tokens:
            text = sample.stream.push_unstoppable(choice.token)
        else:
            text, stop = sample.stream.push(choice.token)
        if stop is None and sample.n_tokens >= job.limit:
            tail, stop = sample.stream.finish()
            text, reason = text + tail, "length"
        reason = "stop" if stop is not None else reason
    sample.is_open = reason is None
    return Event(
        request=job.id,
        sample=sample.index,
        text=text,
        token=choice.token,
        logprob=choice.logprob,
        top=choice.top,
        finish_reason=reason,
        stop_reason=stop,
    )


def give_out(job: Job, sample: Sample, event: Event) -> list[Event]:
    """Pass an event on; with `best_of`, hold it until the best samples are known."""
    done = not any(other.is_open for other in job.samples)
    if job.sampling.candidates == job.sampling.n:
        return [replace(event, usage=job.usage())] if done else [event]
    sample.events.append(event)
    if not done:
        return []
    ranked = sorted(job.samples, key=lambda sample: -sample.logprob_sum / sample.n_tokens)
    best = ranked[: job.sampling.n]
    events = [replace(event, sample=rank) for rank, sample in enumerate(best) for event in sample.events]
    return [*events[:-1], replace(events[-1], usage=job.usage())]


def end_unread(job: Job) -> list[Event]:
    """The events of a request that generates nothing."""
    ends = [Event(request=job.id, sample=i, finish_reason="length") for i in range(job.sampling.n)]
    return [*job.prompt_event(), *ends[:-1], replace(ends[-1], usage=job.usage())]

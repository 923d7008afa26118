"""The command `kvfrontier`: its words, and what serves each of them."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

from kvfrontier.runners import cli_page, cli_records, cli_sweeps, cli_wandb
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.gpu_suite import command as gpu_suite
from kvfrontier.runners.prefix import command as prefix

DESCRIPTION = """\
What long context costs, and what each way of paying less loses.

  kvfrontier list                                        what there is to choose from
  kvfrontier list methods snapkv                         one of it: parameters, paper, cost, flags
  kvfrontier run method=window method.window=256 task=needle context=2048
  kvfrontier run -m method=dense,window,kivi2 context=512,1024 task=needle,perplexity
  kvfrontier run -m +sweep=quickstart --dry-run          what it would run, how long that takes, what is recorded
  kvfrontier status --watch results/                     how far running sweeps are
  kvfrontier merge a100/ laptop/ -o both                 one folder of records from several
  kvfrontier train task=mqar method=dense,window,gla     small models trained with each method, and what they recall
  kvfrontier plan model=llama-3-8b method=dense,kivi4 context=131072 device=h100-80g   does it fit?
  kvfrontier allocate requests=sharegpt memory=12GiB     how a server hands the cache's memory out: what is wasted
  kvfrontier trace method=snapkv context=2048 -o trace   what memory holds, step by step
  kvfrontier check my_package.MyMethod budget=40         the conformance suite on a method of one's own
  kvfrontier report results/ -o site                     tables, figures and a page from records
  kvfrontier figure frontier --format pdf                one figure of it; kvfrontier table: one table
  kvfrontier reproduce attention-sinks                   a published comparison, run again and judged
  kvfrontier validate my.jsonl                           whether records may be put beside others
  kvfrontier compare before/ after/                      what got better or worse beyond noise
  kvfrontier publish results/ --to folder -o dataset     records as a data set, with card and leaderboard
  kvfrontier rescore results/                            stored answers, scored again without a model
  kvfrontier show-prompt task=needle context=512         exactly what a sample feeds to the model
  kvfrontier protocol diff a.jsonl b.jsonl               why two scores may not be put together
  kvfrontier power task=needle delta=0.05                how many samples a difference needs
  kvfrontier wandb-sync results/                         records that exist, into a W&B project
  kvfrontier prefix ls                                   dense prefixes that quality runs share; clear, bench
  kvfrontier bench-self -o bench                         our speed beside the library's
  kvfrontier gpu-suite --minutes 8 -o gpu                everything a GPU is asked, in minutes; goes on where it stopped
"""
EPILOG = "Exit code: 0 all done, 1 a job or a check failed, 2 bad usage."


#: key=value, +key=value, ~key
_OVERRIDE = re.compile(r"[+~]|[^-=][^=]*=")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    # A bare completion request comes from the shell, which knows only the command's first word.
    if args[:1] and args[0] in ("-sc", "--shell-completion"):
        args.insert(0, "run")
    warnings.showwarning = _say_plainly
    try:
        if args[:1] == ["run"]:
            return _run(args[1:])
        if args[:1] == ["train"]:
            from kvfrontier.runners.train.show import command

            return command(args[1:])
        if args[:1] == ["lm-eval"]:
            return _lm_eval(args[1:])
        options = _parser().parse_args(args)
        return options.serve(options)
    except ValueError as error:
        from kvfrontier.runners.record import BadRecords

        if not isinstance(error, (UsageError, BadRecords)):
            raise
        print(f"kvfrontier: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as end:
        from kvfrontier.runners.sweep.stop import Preempted

        if isinstance(end, Preempted):
            print(
                "kvfrontier: told to end (SIGTERM); what is recorded is kept, and the same command goes on from there",
                file=sys.stderr,
            )
            return 143
        print(
            "kvfrontier: interrupted; what is recorded is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say_plainly(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one sentence, without the line of code that gave it."""
    print(f"kvfrontier: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kvfrontier", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run cells and sweeps; takes Hydra's command line (kvfrontier run --help)")
    commands.add_parser("train", help="train small models with each method, and measure them (kvfrontier train --help)")

    commands.add_parser(
        "lm-eval", help="lm-evaluation-harness, to which our models and methods are known (kvfrontier lm-eval --help)"
    )

    show = commands.add_parser(
        "list",
        help="what there is to choose from",
        description=dedent("""\
            Without arguments, all there is; with a kind, one table; with a name, all that is known of it.

              kvfrontier list methods
              kvfrontier list methods kivi
              kvfrontier list tasks needle --json
            """),
        formatter_class=raw,
    )
    show.add_argument("kind", nargs="?", metavar="methods|axes|models|tasks|workloads|backends|devices")
    show.add_argument("name", nargs="?", metavar="NAME")
    show.add_argument("--json", action="store_true", help="JSON instead of a table")
    show.set_defaults(serve=_list)

    plan = commands.add_parser(
        "plan",
        help="what a model, a method and a context take of a device: does it fit?",
        description=dedent("""\
            Predicts memory and bounds time without weights and without the device: the state by closed forms, the peaks
            by a run of the real code on tensors that have shapes alone, the times by a roofline. Values with commas
            between them make a line each. Models: kvfrontier list models; devices: kvfrontier list devices.

              kvfrontier plan model=llama-3-8b method=dense,kivi4,snapkv context=131072 device=h100-80g
              kvfrontier plan model=qwen3-8b method=dense requests=32x500,1x16000 device=rtx-4090-24g
              kvfrontier plan model=qwen3-4b method=dense,paged workload=batch_short,single_long device=rtx-4090-24g
              kvfrontier plan model=phi-4 method=window method.window=1024 context=16384 dtype=bf16 chunk=4096
              kvfrontier plan model=hf model.path=my/config.json method=snapkv budget=25% context=32768

            Also: new=1, decoded tokens of the context; chunk=null, the prompt in one call; logits=all, of every place.
            """),
        formatter_class=raw,
    )
    plan.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="as for kvfrontier run, and device, requests, chunk"
    )
    plan.add_argument("--json", action="store_true", help="JSON instead of a table")
    plan.add_argument("--why", action="store_true", help="what dominates the peak, and what would help most")
    plan.add_argument("--fit", action="store_true", help="methods and budgets that fit, best measured quality first")
    plan.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="records for --fit (results)"
    )
    plan.add_argument(
        "--agreement", action="store_true", help="run over 100 small cells, predicted and measured, and write the table"
    )
    plan.add_argument(
        "--on-paper", action="store_true", help="70B and 405B, a million tokens, 8 GPUs, batch 64: one page, predicted"
    )
    plan.add_argument("--on", default="auto", metavar="DEVICE", help="where --agreement measures: cpu, cuda (auto)")
    plan.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for what --agreement, --on-paper write")
    plan.set_defaults(serve=_plan)

    trace = commands.add_parser(
        "trace",
        help="what memory holds, step by step, while a method reads a prompt and decodes",
        description=dedent("""\
            Runs one cell's memory pass and shows every step's peak (a chunk of the prompt, the seal, a decoded token),
            by what it is made of: weights, state, unused parts of the state, logits, activations. With -o it writes
            trace.json, trace.csv, trace.png and trace.svg.

              kvfrontier trace method=snapkv context=2048 -o trace
              kvfrontier trace model=tiny method=paged method.block=64 context=512 chunk=128 new=16 --json
            """),
        formatter_class=raw,
    )
    trace.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as for kvfrontier run, and chunk and new")
    trace.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the data and the picture")
    trace.add_argument("--json", action="store_true", help="JSON instead of a table")
    trace.set_defaults(serve=_trace)

    allocate = commands.add_parser(
        "allocate",
        help="how servers hand out the cache's memory: what holds tokens, and what is wasted",
        description=dedent("""\
            Serves requests on a simulated memory, by policy: max (the longest text for each), pow2 (the output to a
            power of two), oracle (just what comes), paged (blocks). Values with commas between them make a line each.

              kvfrontier allocate model=phi-4 device=l40s-48g requests=32x500,1x16000
              kvfrontier allocate policy=paged block=1,16,256 memory=12GiB requests=lognormal:prompt=512:sigma=0.8
              kvfrontier allocate requests=my.csv arrivals=poisson:0.05 device=h100-80g
              kvfrontier allocate policy=paged requests=uniform prefix=2000 groups=4 sharing=true,false
              kvfrontier allocate --figure vllm-fig2

            requests   uniform:prompt=1-1024:output=1-1024, lognormal:prompt=161:output=338:sigma=1, sharegpt
                       (count=1000 of them), 32x500 (of which new=1 decoded), a workload (kvfrontier list workloads),
                       or a CSV with the columns prompt,output[,arrival,prefix_group,prefix_tokens]
            prefix     common tokens before every prompt, in groups=1 groups
            arrivals   at_once, or poisson:RATE, requests a decode step
            memory     bytes for the cache, as 12GiB; or device=NAME (h100-80g), less the model's weights
            of max, pow2, oracle   place=buddy or first_fit: where a stretch lies
            of paged               block=16, watermark=0.01 (share kept free on admission), sharing=true
            Also: max_length=TOKENS (the model's), dtype=bf16, seed=0.
            """),
        formatter_class=raw,
    )
    allocate.add_argument("words", nargs="*", metavar="KEY=VALUE", help="model, policy, requests, memory and so on")
    allocate.add_argument("--figure", metavar="NAME", help="a published figure beside ours, and whether it holds")
    allocate.add_argument("--json", action="store_true", help="JSON instead of a table")
    allocate.set_defaults(serve=_allocate)

    check = commands.add_parser(
        "check",
        help="the conformance suite on one method, ours or your own",
        description=dedent("""\
            Runs every check that our own methods pass, and prints what holds and the numbers of what does not: bytes
            against the closed form, chunks, decode against prefill, gradients, forks, padding, snapshots, bfloat16,
            fake tensors. NAME is a registered method, or where a class or function is that gives one.

              kvfrontier check my_package.MyMethod budget=40
              kvfrontier check snapkv budget=40 window=8 --json

            The text has 150 tokens, so give parameters so small that the method is at work in it.
            """),
        formatter_class=raw,
    )
    check.add_argument("target", metavar="NAME", help="a registered name, or package.module.Class")
    check.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="parameters of the method")
    check.add_argument("--json", action="store_true", help="JSON instead of a table")
    check.set_defaults(serve=_check)

    again = commands.add_parser(
        "rescore",
        help="score stored answers again, without a model",
        description=dedent("""\
            Grades the answers that records hold by their tasks as they are now, prints what changed, and with -o
            writes the records anew. Nothing is overwritten; read together with the old ones, the new ones count.

              kvfrontier rescore results/
              kvfrontier rescore results/ -o results/rescored.jsonl
            """),
        formatter_class=raw,
    )
    again.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder that holds some")
    again.add_argument("-o", "--output", type=Path, metavar="FILE", help="a new file for the records, as new.jsonl")
    again.add_argument("--json", action="store_true", help="JSON instead of a table")
    again.set_defaults(serve=_rescore)

    prompt = commands.add_parser(
        "show-prompt",
        help="exactly what a sample feeds to the model, and what came back",
        description=dedent("""\
            Prints a sample's prompt with its special tokens, where its parts meet and how many tokens they have; needs
            the model's tokenizer alone. Of methods that are named, what records say that they answered; with --run,
            what they answer now.

              kvfrontier show-prompt task=niah_multikey_1 context=4096 sample=3
              kvfrontier show-prompt task=needle context=1024 method=dense,kivi2 --records results/
              kvfrontier show-prompt task=needle context=1024 method=window method.window=64 --run
            """),
        formatter_class=raw,
    )
    prompt.add_argument("words", nargs="+", metavar="KEY=VALUE", help="as for kvfrontier run, and sample=0")
    prompt.add_argument(
        "--records", nargs="+", type=Path, default=[], metavar="PATH", help="records that hold answers (results)"
    )
    prompt.add_argument("--run", action="store_true", help="have the methods answer now")
    prompt.add_argument("--json", action="store_true", help="JSON, with the token ids")
    prompt.set_defaults(serve=_show_prompt)

    protocol = commands.add_parser(
        "protocol",
        help="what decides whether two scores may be put together",
        description=dedent("""\
            show: the task hash and what it is made of (version, template, metric, truncation, stop rule, compress_at),
            the sample set and the protocol, of records or of the cell that words describe. diff: whether scores of two
            sides may stand in one column, be compared sample by sample, and have their bytes and seconds side by side,
            and why not. A side is a file, a folder, or words in quotes.

              kvfrontier protocol show task=needle context=1024
              kvfrontier protocol diff mine.jsonl theirs.jsonl
              kvfrontier protocol diff results/ "task=needle task.compress_at=prompt context=1024"
            """),
        formatter_class=raw,
    )
    protocol.add_argument("what", choices=("show", "diff"))
    protocol.add_argument("sides", nargs="+", metavar="PATH|KEY=VALUE", help="records, or words as for kvfrontier run")
    protocol.add_argument("--json", action="store_true", help="JSON instead of text")
    protocol.set_defaults(serve=_protocol)

    power = commands.add_parser(
        "power",
        help="how many samples it takes to tell a method from dense",
        description=dedent("""\
            Samples that a paired comparison with dense attention needs to see a difference of delta, and to show that
            there is none: in the worst case, and with --records by how much the recorded answers differ.

              kvfrontier power task=needle delta=0.05
              kvfrontier power task=needle delta=0.1 context=1024 --records results/
            """),
        formatter_class=raw,
    )
    power.add_argument("words", nargs="+", metavar="KEY=VALUE", help="task and its parameters, delta, context, model")
    power.add_argument("--records", nargs="+", type=Path, default=[], metavar="PATH", help="records of the task")
    power.add_argument("--json", action="store_true", help="JSON instead of a table")
    power.set_defaults(serve=_power)

    bench = commands.add_parser(
        "bench-self",
        help="our dense attention beside transformers' own, as ratios of one run",
        description=dedent("""\
            Times decode and prefill against DynamicCache with sdpa, interleaved, and measures what chunks and bounded
            state are worth, on random weights of SmolLM2-135M's shape. Writes bench_self.md and bench_self.json.
            Takes half an hour at 4,096 tokens on 2 cores; run it on a machine that does nothing else. Parts: decode,
            prefill, peaks, flat, long, quantized, and of further peers static, sliding, far (four times the context),
            steps, growth, roofline, patterns, harness, allocation.

              kvfrontier bench-self -o results/bench-self
              kvfrontier bench-self -o quick --context 1024
              kvfrontier bench-self -o quick --only decode,quantized
            """),
        formatter_class=raw,
    )
    bench.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    bench.add_argument("--context", type=int, default=4096, help="tokens (4096)")
    bench.add_argument("--pairs", type=int, default=7, help="interleaved pairs of timings, at least 7 (7)")
    bench.add_argument("--only", metavar="PARTS", help="some of them, as decode,quantized (all)")
    bench.add_argument("--device", default="auto", help="cpu, cuda, mps; auto takes the best there is")
    bench.add_argument("--json", action="store_true", help="print the rows as JSON")
    bench.set_defaults(serve=_bench_self)
    cli_records.add(commands)

    suite = commands.add_parser("gpu-suite", help="what a GPU is asked, in minutes: kernels, curves, families, walls")
    gpu_suite.add_arguments(suite)
    suite.set_defaults(serve=gpu_suite.serve)
    prefix.add(commands)
    cli_page.add(commands)
    cli_wandb.add(commands)
    cli_sweeps.add(commands)
    return parser


def _run(args: list[str]) -> int:
    """Hydra's command line, with our two flags taken out of it and its errors put into one sentence."""
    from kvfrontier.runners import usage

    if {"-h", "--help"} & set(args):
        print(usage.run_help())
        return 0
    usage.check_completion(args, os.environ.get("COMP_LINE"))

    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kvfrontier.runners import compose, job
    from kvfrontier.runners.sweep.run import CellsFailed

    flags = {
        "--dry-run": "hydra.sweeper.dry_run=true",
        "--predict": "hydra.sweeper.predict=true",
        "--json": "hydra.sweeper.json_output=true",
    }
    args = [flags.get(arg, arg) for arg in args]
    compose.register()
    overrides = [arg for arg in args if _OVERRIDE.match(arg)]
    command = hydra.main(version_base="1.3", config_path=f"pkg://{compose.CONFIGS}", config_name="config")(job.run)
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), os.environ.get("COMP_LINE")
    # Hydra's parser wants all overrides in one place.
    sys.argv = [before[0][0], *(arg for arg in args if arg not in overrides), "--", *overrides]
    # Hydra then raises its errors instead of printing them and leaving.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if before[2]:
        # Hydra completes the words after the command's name; ours has two words.
        os.environ["COMP_LINE"] = before[2].replace(" run ", " ", 1)
    try:
        command()
    except CellsFailed as error:
        print(f"kvfrontier: {error}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        if before[1] == "1":
            raise
        raise compose.explain(error, overrides) from error
    finally:
        sys.argv = before[0]
        for name, value in zip(("HYDRA_FULL_ERROR", "COMP_LINE"), before[1:], strict=True):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return 0


def _lm_eval(args: Sequence[str]) -> int:
    from kvfrontier.runners.harness import command

    return command.run(args)


def _list(options: argparse.Namespace) -> int:
    from kvfrontier.runners import listing

    listing.show(options.kind, options.name, options.json)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from kvfrontier.runners.plan import show
    from kvfrontier.runners.record import check_writable

    if options.on_paper:
        if options.words or options.output is None:
            raise UsageError("--on-paper has cells of its own; write kvfrontier plan --on-paper -o DIR")
        show.on_paper(check_writable(options.output, "-o DIR"), options.results, as_json=options.json)
        return 0
    if options.agreement:
        if options.words or options.output is None:
            raise UsageError("--agreement has cells of its own; write kvfrontier plan --agreement -o DIR")
        return 0 if show.agreement(check_writable(options.output), options.on, as_json=options.json) else 1
    if not options.words:
        raise UsageError("nothing to plan; write for example kvfrontier plan model=llama-3-8b context=131072")
    if options.fit:
        show.fit(options.words, options.results, as_json=options.json)
    else:
        show.plan(options.words, as_json=options.json, with_why=options.why)
    return 0


def _trace(options: argparse.Namespace) -> int:
    from kvfrontier.runners import trace

    trace.show(options.words, options.output, as_json=options.json)
    return 0


def _allocate(options: argparse.Namespace) -> int:
    from kvfrontier.runners.allocators import show

    if options.figure:
        show.figure(options.figure, options.words, as_json=options.json)
    else:
        show.allocate(options.words, as_json=options.json)
    return 0


def _check(options: argparse.Namespace) -> int:
    from kvfrontier.runners import check

    return 0 if check.show(options.target, options.settings, options.json) else 1


def _rescore(options: argparse.Namespace) -> int:
    from kvfrontier.runners.review import rescore

    rescore.show(options.paths, options.output, as_json=options.json)
    return 0


def _show_prompt(options: argparse.Namespace) -> int:
    from kvfrontier.runners.review import prompts

    prompts.show(options.words, options.records, run_now=options.run, as_json=options.json)
    return 0


def _protocol(options: argparse.Namespace) -> int:
    from kvfrontier.runners.review import protocol

    if options.what == "show":
        protocol.show(options.sides, as_json=options.json)
    elif len(options.sides) != 2:
        raise UsageError(
            f"protocol diff compares two sides, and got {len(options.sides)}; put the words of one in quotes"
        )
    else:
        protocol.diff(*options.sides, as_json=options.json)
    return 0


def _power(options: argparse.Namespace) -> int:
    from kvfrontier.runners.review import power

    power.show(options.words, options.records, as_json=options.json)
    return 0


def _bench_self(options: argparse.Namespace) -> int:
    from kvfrontier.runners import bench_self
    from kvfrontier.runners.environment import resolve_device
    from kvfrontier.runners.progress import working
    from kvfrontier.runners.record import check_writable

    folder = check_writable(options.output, "-o DIR")
    only = options.only.split(",") if options.only else bench_self.PARTS
    with working("bench-self") as say:
        found = bench_self.run(options.context, options.pairs, str(resolve_device(options.device)), say, only=only)
    _, page = bench_self.write(found, folder)
    print(found.model_dump_json(indent=1) if options.json else page.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

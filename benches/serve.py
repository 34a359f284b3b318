#!/usr/bin/env python3
"""Throughput of `strata serve` beside llama-server: same file, prompts, number of slots and threads, and tokens of an answer.

    serve.py MODEL.gguf --strata STRATA [--llama LLAMA-SERVER] [--slots 1,4,8] [--rounds 3] [--prompt 128] [--tokens 128]

For each number of slots both servers run, without caches of prompts; in turns each answers as many streams at once as it has slots, greedily,
with every prompt new. `all` is tokens of answers per second from the first request to the last answer, prompts included; `decode` is the sum
of what each client gets per second after its first token. Medians, and ratios of them. A round waits until the machine is quiet, and counts
only if other programs had little of the processor in it; `own`, tokens of answers per second of the server's own processor time, is right
with one thread on a busy machine too (--noise 1 --threads 1). Needs Linux, and nothing but Python.
"""
import argparse, atexit, http.client, json, os, random, re, signal, socket, statistics, subprocess, tempfile, threading, time

WORDS = """time year people way day man thing woman life child world school state family student group country problem hand part place case
week company system program question work government number night point home water room mother area money story fact month lot right study
book eye job word business issue side kind head house service friend father power hour game line end member law car city community name
president team minute idea body information back parent face level office door health person art war history party result change morning
reason research girl guy moment air teacher force education""".split()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def busy(pid=None):
    """Seconds of processor time: of the whole machine, or of a process."""
    if pid is None:
        user, nice, system, _, _, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
    else:
        ticks = sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for_quiet():
    while True:
        before = busy()
        time.sleep(0.5)
        if busy() - before < 0.05 * os.cpu_count():
            return


class Server:
    """A running server, the only one that is awake while it is asked."""

    def __init__(self, name, command, port):
        self.name, self.port, self.log = name, port, tempfile.TemporaryFile()
        environment = dict(os.environ, STRATA_CONFIG="")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        atexit.register(self.stop)
        while not self.answers():
            if self.process.poll() is not None:
                self.log.seek(0)
                raise SystemExit(f"{command}: {self.log.read().decode(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def answers(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def ask(self, prompt, tokens):
        """The times of the first and the last text, and the usage."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "cache_prompt": False}
        body = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            data, first = b"", None
            # Nothing is parsed on the way: the client shares the processor with the server.
            while piece := s.recv(1 << 16):
                data += piece
                last = time.perf_counter()
                if first is None and b'"text"' in data:
                    first = last
        usage = re.findall(rb'"usage": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})', data)
        if b" 200 " not in data[:20] or not usage:
            raise SystemExit(f"{self.name}: {data[:500]} ... {data[-500:]}")
        return first, last, json.loads(usage[-1])

    def round(self, prompts, tokens):
        """Tokens per second of all, of decoding, how many tokens prompts and answers had, what other programs had of the
        processor, and tokens per second of processor time of the server."""
        answers = [None] * len(prompts)

        def client(i):
            answers[i] = self.ask(prompts[i], tokens)

        mine = lambda: busy(self.process.pid) + busy(os.getpid())
        others, own = busy() - mine(), busy(self.process.pid)
        threads = [threading.Thread(target=client, args=(i,)) for i in range(len(prompts))]
        begin = time.perf_counter()
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        own = busy(self.process.pid) - own
        others = (busy() - mine() - others) / os.cpu_count() / (time.perf_counter() - begin)
        count = [usage["completion_tokens"] for _, _, usage in answers]
        decode = sum((n - 1) / (last - first) for n, (first, last, _) in zip(count, answers))
        end = max(last for _, last, _ in answers)
        return sum(count) / (end - begin), decode, sum(usage["prompt_tokens"] for _, _, usage in answers), sum(count), others, sum(count) / own


def main():
    signal.signal(signal.SIGTERM, lambda *_: exit(1))  # so that the servers end too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--strata", required=True)
    parser.add_argument("--llama")
    parser.add_argument("--slots", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--noise", type=float, default=0.05, help="what other programs may have of the processor in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    chance = random.Random(1)
    context = (2 * args.prompt + args.tokens + 255) // 256 * 256
    print(f"{os.path.basename(args.model)}, prompts of {args.prompt} words, {args.tokens} tokens, {args.threads} threads")
    for slots in map(int, args.slots.split(",")):
        a, b = free_port(), free_port()
        servers = [Server("strata", [args.strata, "serve", "-m", args.model, "--port", str(a), "--slots", str(slots), "-c", str(context),
                                     "--threads", str(args.threads), "--cache-disk", "0"], a)]
        if args.llama:
            servers.append(Server("llama", [args.llama, "-m", args.model, "--port", str(b), "-np", str(slots), "-c", str(context * slots),
                                            "-t", str(args.threads), "-tb", str(args.threads), "--cache-ram", "0", "--no-ui"], b))
        rounds = {server.name: [] for server in servers}
        number, noisy = 0, 0
        while number <= args.rounds:  # the first warms up
            if args.noise < 1:
                wait_for_quiet()
            prompts = [" ".join(chance.choices(WORDS, k=args.prompt)) for _ in range(slots)]
            results = [(server.name, server.round(prompts, args.tokens)) for server in (servers if number % 2 else servers[::-1])]
            if max(result[4] for _, result in results) > args.noise:
                noisy += 1
                continue
            for name, result in results if number else []:
                rounds[name].append(result)
            number += 1
        [server.stop() for server in servers]
        medians = {}
        for name, results in rounds.items():
            columns = [[r[i] for r in results] for i in (0, 1, 5)]
            medians[name] = list(map(statistics.median, columns))
            shown = [" ".join(f"{x:.1f}" for x in column) for column in columns]
            print(f"{slots} slots  {name:6}  all {shown[0]}  decode {shown[1]}  own {shown[2]}  ({results[0][2]} prompt tokens, {results[0][3]} of answers)")
        if args.llama:
            ratios = [x / y for x, y in zip(medians["strata"], medians["llama"])]
            print(f"{slots} slots  strata / llama: all {ratios[0]:.2f}, decode {ratios[1]:.2f}, own {ratios[2]:.2f}  ({noisy} noisy rounds left out)", flush=True)


main()

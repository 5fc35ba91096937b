#!/usr/bin/env python3
"""Compares ENVELOPE and BODYSTRUCTURE with Dovecot's over a folder of mail (mboxrd files with .zst, tar.zst of .eml).

usage: mime_oracle.py CORPUS SUMMARY_DUMP [WORK]

SUMMARY_DUMP is the program built from examples/summary_dump.rs. Needs dovecot-imapd and zstd.
"""
import json, os, re, subprocess, sys, pathlib, tarfile, io

DOVECOT_IMAP = "/usr/lib/dovecot/imap"


def corpus_messages(folder):
    for file in sorted(pathlib.Path(folder).glob("*.zst")):
        data = subprocess.run(["zstd", "-dc", str(file)], capture_output=True, check=True).stdout
        if file.name.endswith(".tar.zst"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar.getmembers():
                    if member.isfile():
                        yield tar.extractfile(member).read()
        else:
            for part in re.split(rb"(?m)^From .*\n", data)[1:]:
                part = re.sub(rb"(?m)^>(>*From )", rb"\1", part.removesuffix(b"\n"))
                yield part.replace(b"\n", b"\r\n")


def parse(data, at):
    """One IMAP value: None, str (Latin 1), int or list."""
    while data[at] == 32:
        at += 1
    c = data[at:at + 1]
    if c == b"(":
        items, at = [], at + 1
        while True:
            while data[at] == 32:
                at += 1
            if data[at:at + 1] == b")":
                return items, at + 1
            item, at = parse(data, at)
            items.append(item)
    if c == b'"':
        text, at = bytearray(), at + 1
        while data[at:at + 1] != b'"':
            if data[at:at + 1] == b"\\":
                at += 1
            text.append(data[at])
            at += 1
        return text.decode("latin-1"), at + 1
    if c == b"{":
        end = data.index(b"}\r\n", at)
        size = int(data[at + 1:end])
        return data[end + 3:end + 3 + size].decode("latin-1"), end + 3 + size
    end = re.compile(rb"[ ()\r]").search(data, at).start()
    atom = data[at:end].decode()
    return (None if atom == "NIL" else int(atom) if atom.isdigit() else atom), end


def dovecot_answers(work):
    config = work / "dovecot.conf"
    config.write_text(
        f"""base_dir = {work}/run
log_path = {work}/log
ssl = no
mail_location = maildir:{work}/Maildir
default_internal_user = root
default_login_user = root
first_valid_uid = 1
first_valid_gid = 1
protocols = imap
""")
    commands = b"a SELECT INBOX\r\nb UID FETCH 1:* (ENVELOPE BODYSTRUCTURE)\r\nc LOGOUT\r\n"
    environment = {"PATH": os.environ["PATH"], "USER": "oracle", "HOME": str(work), "CONFIG_FILE": str(config)}
    command = [DOVECOT_IMAP, "-c", str(config)]
    if os.getuid() == 0:  # Dovecot refuses to read mail as root
        subprocess.run(["chown", "-R", "65534:65534", str(work)], check=True)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                               stderr=subprocess.DEVNULL)
    process.stdin.write(commands)
    process.stdin.flush()
    output = process.stdout.read()  # an input that ends early would cut the answer off
    process.stdin.close()
    process.wait()
    names = {}
    for line in (work / "Maildir" / "dovecot-uidlist").read_text().splitlines()[1:]:
        head, name = line.split(" :", 1)
        names[int(head.split()[0])] = name.split(":")[0]
    answers = {}
    for match in re.finditer(rb"\* \d+ FETCH (?=\(UID )", output):
        items, _ = parse(output, match.end())
        fields = dict(zip(items[::2], items[1::2]))
        answers[names[fields["UID"]]] = (fields["ENVELOPE"], fields["BODYSTRUCTURE"])
    return answers, output


PLACEHOLDERS = {"MISSING_DOMAIN": "", "MISSING_MAILBOX": "", "SYNTAX_ERROR": ""}


def is_address(value):
    return isinstance(value, list) and len(value) == 4 and all(v is None or isinstance(v, str) for v in value)


def normal(value):
    """White space in texts, routes, and Dovecot's placeholders are no difference."""
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip()
    if not isinstance(value, list):
        return value
    if is_address(value) and value[3] is not None:
        value = [value[0] or None, None, value[2], PLACEHOLDERS.get(value[3], value[3])]
        value[2] = PLACEHOLDERS.get(value[2], value[2])
    return [normal(item) for item in value]


def plain(structure):
    """Dovecot tells the usual type and charset in lower case."""
    if [str(item).lower() for item in structure[:2]] == ["text", "plain"]:
        parameters = structure[2]
        if parameters and [str(text).lower() for text in parameters] == ["charset", "us-ascii"]:
            return ["text", "plain", ["charset", "us-ascii"], *structure[3:5], str(structure[5]).lower(), *structure[6:]]
    return structure


def repeats_fields(file):
    """Of repeated fields we tell the first, Dovecot the last."""
    header = re.split(rb"\r?\n\r?\n", file.read_bytes(), maxsplit=1)[0]
    names = re.findall(rb"(?im)^(date|subject|message-id|in-reply-to)\s*:", header)
    return len(names) != len({name.lower() for name in names})


def main():
    corpus, program = sys.argv[1:3]
    work = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else "/tmp/mime-oracle").resolve()
    folder = work / "Maildir" / "cur"
    if not folder.exists():
        for name in ("cur", "new", "tmp"):
            (work / "Maildir" / name).mkdir(parents=True)
        for number, message in enumerate(corpus_messages(corpus)):
            (folder / f"{1600000000 + number}.M{number}").write_bytes(message)
    theirs, output = dovecot_answers(work)
    files = sorted(str(file) for file in folder.iterdir())
    ours = {}
    for start in range(0, len(files), 500):
        names = files[start:start + 500]
        for line in subprocess.run([program, *names], capture_output=True, check=True, text=True).stdout.split("\n")[:-1]:
            name, envelope, structure = json.loads(line)
            ours[name.split(":")[0]] = (envelope, structure)
    same, repeated = [0, 0, 0], 0
    for name, (envelope, structure) in sorted(ours.items()):
        if name not in theirs:
            print(f"{name}: no answer")
            continue
        equal = [normal(envelope) == normal(theirs[name][0]), plain(normal(structure)) == plain(normal(theirs[name][1]))]
        for index, kind in enumerate(("ENVELOPE", "BODYSTRUCTURE")):
            if not equal[index]:
                print(f"{name} {kind}\n  ours   {json.dumps(normal((envelope, structure)[index]))}\n"
                      f"  theirs {json.dumps(normal(theirs[name][index]))}")
        if not equal[0] and repeats_fields(next(folder.glob(name + "*"))):
            repeated += 1
            print(f"{name} has repeated fields")
        same = [same[0] + equal[0], same[1] + equal[1], same[2] + all(equal)]
    print(f"{len(ours)} messages: ENVELOPE equal {same[0]}, BODYSTRUCTURE equal {same[1]}, both {same[2]}; "
          f"{repeated} of the different envelopes have repeated fields")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Drives the chat page in headless chromium, against a stand-in for the server and, where PROGRAM is given, against `linnet serve`:

  tests/page/browser_test [--program PROGRAM] [--screenshots FOLDER] [TEST...]

Exit status 77 where there is no chromium.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from devtools import PATIENCE, Browser, Failed, find_chromium  # noqa: E402
from mock_server import POEM, Server  # noqa: E402

HERE = Path(__file__).resolve().parent
SHIFT = 8
LAST = 'Array.from(document.querySelectorAll("article")).pop()'


def expect(what, got, expected):
    if got != expected:
        raise Failed(f'{what}: expected {expected!r}, got {got!r}')


def say(page, text):
    """Types a message and sends it by the keyboard."""
    page.js('document.querySelector("#input").focus()')
    page.type(text)
    page.key('Enter')


def finished(page, n):
    """Waits for n turns, the last of them complete."""
    page.wait(f'document.querySelectorAll("article").length === {n} && !document.querySelector(".running")', f'{n} complete turns')


def wait_for(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f'never came true: {what}')
        time.sleep(0.02)


def texts(page):
    return page.js('Array.from(document.querySelectorAll("article .text")).map(e => e.innerText)')


def state(page):
    return page.js(f'{LAST}.querySelector(".state").innerText')


def focused(page):
    return page.js('document.activeElement.dataset.action ?? document.activeElement.id')


def test_logic(page, server):
    failures = page.js((HERE / 'logic.js').read_text())
    expect('logic.js', failures, [])


def test_empty_state_and_examples(page, server):
    page.wait('document.querySelector(".welcome h2")?.textContent === "linnet-verse"')
    expect('context', page.js('document.querySelector("#facts").textContent'), 'context 4,096 tokens')
    expect('description', page.js('document.querySelector(".welcome p").textContent.includes("classical Chinese poem")'), True)
    page.wait('document.querySelector(".welcome img").naturalWidth > 0')
    page.shot('empty')
    page.click('.examples li:nth-child(1) button')
    finished(page, 2)
    expect('turns', texts(page), ['《春曉》孟浩然', POEM])
    expect('verse', page.js(f'(e => [e.className, e.lang, getComputedStyle(e).whiteSpaceCollapse])({LAST}.querySelector(".text p"))'),
           ['verse', 'zh', 'preserve'])
    expect('title', page.js('document.title'), '《春曉》孟浩然 · Linnet')
    note = page.js(f'{LAST}.querySelector(".note").textContent')
    for part in ('9 tokens', 'first after', 'prompt tokens cached', 'seed'):
        expect(f'{part} in {note}', part in note, True)
    expect('focus', focused(page), 'input')
    page.shot('verse')


def test_streaming_and_stop(page, server):
    say(page, '!slow')
    page.wait(f'{LAST}.innerText.length > 60')
    expect('button', page.js('document.querySelector("#send").textContent'), 'Stop')
    before = page.js(f'{LAST}.innerText.length')
    page.wait(f'{LAST}.innerText.length > {before}', 'the text grows')
    page.type('typed meanwhile')
    page.key('Enter')  # nothing is sent while a reply runs
    expect('turns', page.js('document.querySelectorAll("article").length'), 2)
    page.shot('streaming')
    page.click('article:nth-child(1) [data-action=edit]')
    page.key('Enter')
    expect('no edit meanwhile', page.js('document.querySelector("#banner").innerText.includes("stop it first")'), True)
    page.key('Escape')  # closes the editor
    page.key('Escape')
    finished(page, 2)
    expect('state', state(page), 'Stopped.')
    wait_for(lambda: server.requests[-1]['hung_up'], 'the server hears that the client has gone')
    expect('kept', page.js('document.querySelector("#input").value'), 'typed meanwhile')
    page.js('document.querySelector("#input").value = ""')
    say(page, '!slow again')
    page.wait(f'document.querySelectorAll("article").length === 4 && {LAST}.innerText.length > 40')
    page.click('#send')  # says Stop now
    finished(page, 4)


def test_regenerate_edit_and_branches(page, server):
    say(page, '!say one')
    finished(page, 2)
    page.click('[data-action=regenerate]')
    page.wait(f'{LAST}.innerText.includes("2 / 2")')
    seeds = [request['seed'] for request in server.requests]
    expect('another seed', seeds[0] != seeds[1], True)
    say(page, '!say two')
    finished(page, 4)
    page.click('article:nth-child(3) [data-action=edit]')
    expect('edit has the focus', page.js('document.activeElement.className'), 'edit')
    page.js('document.activeElement.select()')
    page.type('!say three')
    page.key('Enter')
    finished(page, 4)
    expect('fork', texts(page), ['!say one', 'one', '!say three', 'three'])
    expect('sent', [m['content'] for m in server.requests[-1]['messages']], ['!say one', 'one', '!say three'])
    page.shot('branches')
    page.click('article:nth-child(3) [data-action=previous]')
    expect('back', texts(page), ['!say one', 'one', '!say two', 'two'])
    expect('focus stays near', focused(page), 'next')
    page.click('article:nth-child(2) [data-action=previous]')
    expect('other branch', texts(page), ['!say one', 'one'])
    page.click('article:nth-child(2) [data-action=edit]')
    page.js('document.activeElement.select()')
    page.type('by hand')
    page.key('Enter')
    expect('edited reply', texts(page), ['!say one', 'by hand'])
    expect('nothing asked', len(server.requests), 4)
    page.click('article:nth-child(2) [data-action=edit]')
    page.key('Escape')
    expect('given up', focused(page), 'edit')


def test_settings(page, server):
    page.click('#settings-open')
    page.wait('document.querySelector("#settings").open')
    page.shot('settings')
    for name, value in (('system', 'You are a poet.'), ('temperature', '0.5'), ('top_p', '0.9'), ('max_tokens', '4'), ('seed', '11')):
        page.js(f'document.querySelector("#settings-form").elements.{name}.select()')
        page.type(value)
    page.click('#settings button[type=submit]')
    page.wait('!document.querySelector("#settings").open')
    say(page, 'The bird')
    finished(page, 2)
    request = server.requests[-1]
    expect('request', {k: request.get(k) for k in ('temperature', 'top_p', 'max_tokens', 'seed')},
           {'temperature': 0.5, 'top_p': 0.9, 'max_tokens': 4, 'seed': 11})
    expect('system', request['messages'][0], {'role': 'system', 'content': 'You are a poet.'})
    expect('system prompt in sight', page.js('document.querySelector("#log .system").textContent'), 'System prompt: You are a poet.')
    expect('cut', state(page), 'Ended at the longest reply that the settings allow.')
    page.click('#settings-open')
    page.js('document.querySelector("#settings-form").elements.temperature.select()')
    page.type('99')
    page.click('#settings button[type=submit]')
    expect('out of range is refused', page.js('document.querySelector("#settings").open'), True)
    page.key('Escape')
    page.wait('!document.querySelector("#settings").open')


def test_errors(page, server):
    server.busy, server.retry_after = 1, 1
    say(page, '!say at last')
    finished(page, 2)  # asked again by itself
    expect('after the wait', texts(page)[-1], 'at last')
    server.busy, server.retry_after = 1, 600
    page.click('[data-action=regenerate]')
    page.wait(f'{LAST}.innerText.includes("The server is busy. Asking again in")')
    page.shot('busy')
    page.click('article:last-child .state button')  # at once
    page.wait(f'{LAST}.innerText.includes("2 / 2") && {LAST}.innerText.includes("at last")')
    server.busy = 1
    page.click('[data-action=regenerate]')
    page.wait(f'{LAST}.innerText.includes("Give up")')
    page.click('article:last-child .state button:nth-of-type(2)')
    finished(page, 2)
    expect('given up', state(page).split('\n')[0], 'Stopped.')
    for message, sentence in (('!event', 'The mock lost its thread.'), ('!break', 'The connection ended in the middle of the reply.'),
                              ('!500', 'A mock error with status 500.'), ('!400', 'A mock error with status 400.')):
        page.click('#new')
        say(page, message)
        page.wait('document.querySelector(".state.error")?.innerText', sentence)
        expect(message, state(page).split(' Try again')[0].split('\n')[0].strip(), sentence)
    page.shot('error')
    expect('only expected complaints', [c for c in page.complaints() if 'status of' not in c and 'ERR_INCOMPLETE' not in c], [])


def test_key(page, server):
    server.key = 'secret'
    say(page, '!say one')
    page.wait('document.querySelector(".state.error")?.innerText.includes("The server asks for an API key")')
    page.click('article:last-child .state button:nth-of-type(2)')
    page.wait('document.querySelector("#settings").open')
    expect('focus', page.js('document.activeElement.name'), 'key')
    page.type('secret')
    page.key('Enter')
    page.wait('!document.querySelector("#settings").open')
    page.click('article:last-child .state button:nth-of-type(1)')
    page.wait(f'{LAST}.innerText.includes("one") && !document.querySelector(".error")')
    page.complaints()


def test_server_gone_and_back(page, server):
    say(page, '!say one')
    finished(page, 2)
    server.stop()
    say(page, '!say two')
    page.wait('document.querySelector(".state.error")?.innerText.includes("The server does not answer.")')
    page.wait('!document.querySelector("#banner").hidden')
    page.shot('gone')
    again = Server(server.server_address[1]).start()
    try:
        page.wait('document.querySelector("#banner").hidden', 'the page finds the server again')
        page.click('article:last-child .state button')
        page.wait(f'{LAST}.innerText.includes("two") && !document.querySelector(".error")')
        expect('nothing is lost', texts(page), ['!say one', 'one', '!say two', 'two'])
    finally:
        again.stop()
    page.complaints()


def test_keyboard(page, server):
    page.wait('document.querySelector(".welcome h2")?.textContent === "linnet-verse"')
    page.js('document.activeElement.blur()')
    page.key('/')
    expect('slash', focused(page), 'input')
    page.type('line one')
    page.key('Enter', SHIFT)
    page.type('line two')
    page.key('Enter')
    finished(page, 2)
    expect('two lines', texts(page)[0], 'line one\nline two')
    page.type('拼音')  # the Enter that ends the choice of an input method sends nothing
    page.js('document.querySelector("#input").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", isComposing: true, bubbles: true}))')
    expect('turns', page.js('document.querySelectorAll("article").length'), 2)
    page.js('document.querySelector("#input").value = ""')
    page.key('ArrowUp')
    expect('the last message', page.js('document.activeElement.value'), 'line one\nline two')
    page.key('Escape')
    seen, outlines = [], []
    page.js('document.querySelector(".skip").focus()')
    for _ in range(24):
        page.key('Tab')
        seen.append(page.js('document.activeElement.id || document.activeElement.dataset.action || document.activeElement.className'))
        outlines.append(page.js('getComputedStyle(document.activeElement).outlineStyle'))
        if seen[-1] == 'send' or seen[-1] == 'input':
            break
    for place in ('new', 'open', 'remove', 'export', 'import', 'theme', 'settings-open', 'copy', 'edit', 'regenerate', 'input'):
        expect(f'Tab reaches {place} ({seen})', place in seen, True)
    expect('every focus is seen', 'none' in outlines, False)


def test_keeping(page, server):
    say(page, '!say first')
    finished(page, 2)
    page.click('#new')
    say(page, '!say second')
    finished(page, 2)
    page.js('window.before = true')
    page.call('Page.reload')
    page.wait('window.before === undefined && document.querySelectorAll("article").length === 2')
    expect('the same after a reload', texts(page), ['!say second', 'second'])
    expect('list', page.js('Array.from(document.querySelectorAll("#list .open")).map(e => e.textContent)'), ['!say second', '!say first'])
    file = page.js('''(async () => {
        const {exported} = await import(new URL("page/conversation.js", document.baseURI));
        const {conversations} = await import(new URL("page/store.js", document.baseURI));
        return exported(conversations());
    })()''')
    page.click('#list li:nth-child(2) .open')
    expect('the other one', texts(page), ['!say first', 'first'])
    page.click('#list li:nth-child(2) .remove')
    expect('deleted', page.js('document.querySelectorAll("#list li").length'), 1)
    page.click('#banner button')
    expect('undone', texts(page), ['!say first', 'first'])
    with tempfile.TemporaryDirectory() as folder:
        for text, banner in ((file, 'Imported 2 conversations.'), ('{}', 'import.json: the file does not hold')):
            path = Path(folder) / 'import.json'
            path.write_text(text)
            node = page.call('DOM.querySelector', nodeId=page.call('DOM.getDocument')['root']['nodeId'], selector='#file')['nodeId']
            page.call('DOM.setFileInputFiles', files=[str(path)], nodeId=node)
            page.wait(f'document.querySelector("#banner").innerText.includes({json.dumps(banner)})')
    expect('imported beside', page.js('document.querySelectorAll("#list li").length'), 4)


# Another window writes to the same storage: this one shows it, and keeps an editor that is open.
def test_two_windows(page, server):
    say(page, '!say first')
    finished(page, 2)
    elsewhere = """(change => {
        const key = Object.keys(localStorage).find(name => name.startsWith("linnet.conversation."));
        const conversation = JSON.parse(localStorage.getItem(key));
        change(conversation);
        const written = "linnet.conversation." + conversation.id;
        localStorage.setItem(written, JSON.stringify(conversation));
        dispatchEvent(new StorageEvent("storage", {key: written}));
    })"""
    page.click('[data-action=edit]')
    page.js(elsewhere + '(other => { other.id = "tother"; other.updated += 1; })')
    expect('the other one is listed', page.js('document.querySelectorAll("#list li").length'), 2)
    expect('the editor stays', page.js('document.activeElement.className'), 'edit')
    page.key('Escape')
    say(page, '!say second')
    finished(page, 4)
    expect('nothing is doubled', page.js('document.querySelectorAll("#list li").length'), 2)
    page.js('localStorage.removeItem("linnet.conversation.tother")')
    page.js(elsewhere + '(mine => { mine.updated += 1; Object.values(mine.turns)[0].content = "changed"; })')
    expect('a change is shown', texts(page)[0], 'changed')


def test_sessions(page, server):
    page.wait('!document.querySelector("#on-server").hidden')
    settings(page, system='Be brief.')
    say(page, '!say Bird song, twice')
    finished(page, 2)
    page.click('#save-open')
    page.wait('document.querySelector("#save").open')
    expect('proposed', page.js('document.activeElement.value'), 'say-bird-song-twice')
    page.shot('save')
    server.disk_full = True
    page.key('Enter')
    page.wait('document.querySelector("#save-error").textContent === "No space left on device."')
    server.disk_full = False
    page.key('Enter')
    page.wait('document.querySelectorAll("#kept li").length === 1')
    expect('saved', server.sessions['say-bird-song-twice'], [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '!say Bird song, twice'},
                                        {'role': 'assistant', 'content': 'Bird song, twice'}])
    page.click('#new')
    page.click('#kept .open')
    finished(page, 2)
    expect('loaded', texts(page), ['!say Bird song, twice', 'Bird song, twice'])
    page.shot('sessions')
    say(page, '!say on')
    finished(page, 4)
    expect('goes on', [m['content'] for m in server.requests[-1]['messages']], ['Be brief.', '!say Bird song, twice', 'Bird song, twice', '!say on'])
    page.js('window.confirm = () => true')
    page.click('#kept .remove')
    page.wait('document.querySelectorAll("#kept li").length === 0')
    expect('removed', server.sessions, {})
    expect('only expected complaints', [c for c in page.complaints() if '507' not in c], [])


def test_downloads(page, server):
    say(page, '!say 春')
    finished(page, 2)
    with tempfile.TemporaryDirectory() as folder:
        page.browser.call('Browser.setDownloadBehavior', browserContextId=page.context, behavior='allow', downloadPath=folder)
        page.click('#export')
        wait_for(lambda: list(Path(folder).glob('linnet-*.json')), 'a file is written')
        exported = json.loads(next(Path(folder).glob('linnet-*.json')).read_text())
        expect('exported', [t['content'] for t in exported['conversations'][0]['turns'].values()], ['!say 春', '春'])


def test_markdown_and_themes(page, server):
    say(page, '!markdown')
    finished(page, 2)
    expect('tags', page.js(f'Array.from({LAST}.querySelectorAll(".text > *")).map(e => e.tagName).join(" ")'),
           'P H4 OL UL BLOCKQUOTE PRE P')
    expect('HTML stays text', page.js(f'[{LAST}.querySelectorAll("b, script").length, {LAST}.innerText.includes("<b>no HTML</b>")]'),
           [0, True])
    paper = lambda: page.js('getComputedStyle(document.body).backgroundColor')  # noqa: E731
    light = paper()
    page.shot('markdown')
    page.dark(True)
    dark = paper()
    expect('the system is followed', light != dark, True)
    page.shot('markdown-dark')
    page.click('#theme')
    expect('light was chosen', paper(), light)
    page.js('window.before = true')
    page.call('Page.reload')
    page.wait('window.before === undefined && document.querySelector("#theme-name")?.textContent === "light"')
    expect('and is kept', paper(), light)
    page.dark(False)
    page.click('#theme')
    expect('dark was chosen', paper(), dark)
    for width, name in ((390, 'narrow'), (280, 'very narrow')):
        page.size(width, 700)
        expect(f'{name}: nothing sticks out', page.js('document.documentElement.scrollWidth <= innerWidth'), True)
    page.size(390, 700)
    page.click('#menu')
    page.wait('document.querySelector("#side").getBoundingClientRect().left === 0')
    page.shot('narrow')
    page.click('#list .open')
    page.wait('document.querySelector("#side").getBoundingClientRect().right <= 0')
    page.shot('narrow-dark')


def real_conversation(page, server):
    expect('context', page.js('document.querySelector("#facts").textContent'), 'context 4,096 tokens')
    expect('description', page.js('document.querySelector(".welcome p").textContent'), 'Noise, but every part is in use.')
    expect('examples', page.js('Array.from(document.querySelectorAll(".examples button")).map(e => e.textContent)'), ['《春曉》', 'Sing'])
    settings(page, max_tokens='24', seed='5')
    say(page, 'A bird sat upon a branch and sang. ' * 8)
    finished(page, 2)
    first = texts(page)[1]
    expect('text', len(first) > 0, True)
    note = page.js(f'{LAST}.querySelector(".note").textContent')
    for part in ('24 tokens', 'first after', 'prompt tokens cached', 'seed 5'):
        expect(f'{part} in {note}', part in note, True)
    say(page, 'And then?')
    finished(page, 4)
    page.click('article:nth-child(4) [data-action=regenerate]')
    page.wait(f'{LAST}.innerText.includes("2 / 2")')
    expect('another seed', 'seed 6' in page.js(f'{LAST}.querySelector(".note").textContent'), True)
    page.click('#new')
    say(page, 'A bird sat upon a branch and sang. ' * 8)
    finished(page, 2)
    expect('the same seed, the same reply', texts(page)[1], first)
    page.shot('real')


def settings(page, **values):
    page.click('#settings-open')
    for name, value in values.items():
        page.js(f'document.querySelector("#settings-form").elements.{name}.select()')
        page.type(value)
    page.click('#settings button[type=submit]')
    page.wait('!document.querySelector("#settings").open')


def real_cache(page, server):
    settings(page, max_tokens='24')
    say(page, 'A bird sat upon a branch and sang. ' * 8)
    finished(page, 2)
    say(page, 'And then?')
    finished(page, 4)
    cached = page.js('Number(/([\\d,]+) of [\\d,]+ prompt tokens cached/.exec(document.querySelector("article:last-child .note").textContent)[1])')
    expect(f'tokens from the cache ({cached})', cached >= 256, True)


def another_client(server):
    """The stream of another client, long, and read no further than its first line."""
    body = json.dumps({'messages': [{'role': 'user', 'content': 'Sing.'}], 'max_tokens': 4000, 'stream': True, 'ignore_eos': True})
    request = urllib.request.Request(server.url + '/v1/chat/completions', body.encode(), {'Content-Type': 'application/json'})
    stream = urllib.request.urlopen(request)
    stream.readline()
    return stream


def real_stop(page, server):
    with another_client(server):
        say(page, 'Sing.')
        wait_for(lambda: server.health()['waiting'] == 1, 'the message waits for the only place')
        page.key('Escape')
        finished(page, 2)
        expect('state', state(page).split('\n')[0], 'Stopped.')
        wait_for(lambda: server.health()['waiting'] == 0, 'the server notices that the client has gone')
    wait_for(lambda: '"status":499' in server.log(), 'and says so')


# The stream of another client takes the only place: this one is refused, and asks again.
def real_busy(page, server):
    with another_client(server):
        settings(page, max_tokens='4')
        say(page, 'Sing.')
        page.wait('document.querySelectorAll("article").length === 2')
    finished(page, 2)
    expect('no error', page.js('document.querySelector(".state.error") === null'), True)
    expect('text', len(texts(page)[1]) > 0, True)
    page.complaints()


def real_key(page, server):
    page.wait('document.querySelector("#banner").innerText.includes("The server asks for an API key")')
    page.click('#banner button')
    page.type('secret')
    page.key('Enter')
    page.wait('document.querySelector("#banner").hidden && document.querySelector("#model").textContent === "tiny-random"')
    settings(page, max_tokens='4')
    say(page, 'Sing.')
    finished(page, 2)
    expect('no error', page.js('document.querySelector(".state.error") === null'), True)
    page.complaints()


def real_end(page, server):
    settings(page, max_tokens='4000')
    say(page, 'Sing.')
    page.wait(f'{LAST}.innerText.length > 30')
    server.process.send_signal(signal.SIGKILL)
    page.wait('document.querySelector(".state.error") || !document.querySelector(".running")')
    say(page, 'Again.')
    page.wait(f'{LAST}.querySelector(".state.error")?.innerText.includes("The server does not answer.")')
    page.complaints()


# What was saved before the server was killed goes on after it has started again, out of the cache.
def real_sessions(page, server):
    settings(page, max_tokens='24')
    say(page, 'A bird sat upon a branch and sang. ' * 8)
    finished(page, 2)
    page.click('#save-open')
    page.wait('document.querySelector("#save").open')
    page.key('Enter')
    page.wait('document.querySelectorAll("#kept li").length === 1')
    before = texts(page)
    server.restart()
    page.click('#new')
    page.click('#kept .open')
    finished(page, 2)
    expect('the conversation', texts(page), before)
    say(page, 'And then?')
    finished(page, 4)
    cached = page.js('Number(/([\\d,]+) of [\\d,]+ prompt tokens cached/.exec(document.querySelector("article:last-child .note").textContent)[1])')
    expect(f'tokens from the cache ({cached})', cached >= 256, True)


# name -> the test, options of linnet serve, environment
REAL = {'real_conversation': (real_conversation, [], {}), 'real_cache': (real_cache, [], {}), 'real_stop': (real_stop, ['--max-streams', '1'], {}),
        'real_busy': (real_busy, ['--max-streams', '1', '--queue', '0'], {}),
        'real_sessions': (real_sessions, ['--sessions', 'SESSIONS'], {}),
        'real_key': (real_key, [], {'LINNET_API_KEY': 'secret'}), 'real_end': (real_end, [], {})}


class RealServer:
    """linnet serve with the random model of the tree."""

    def __init__(self, program, options, environment):
        self.folder = tempfile.TemporaryDirectory()
        model = Path(self.folder.name) / 'tiny-random'
        model.mkdir()
        for file in (HERE.parent.parent / 'models/tiny-random').iterdir():
            (model / file.name).symlink_to(file)
        (model / 'linnet.json').write_text(json.dumps({
            'description': 'Noise, but every part is in use.', 'examples': [{'prompt': '《春曉》'}, {'title': 'Sing', 'prompt': 'Sing.'}]}))
        self.log_file = open(Path(self.folder.name) / 'log', 'w+')
        options = [str(Path(self.folder.name) / 'sessions') if option == 'SESSIONS' else option for option in options]
        self.command = [program, 'serve', '--model', model, '--threads', '1', *options]
        self.environment = {**os.environ, **environment}
        self.model = '' if environment else 'tiny-random'
        self.start(0)

    def start(self, port):
        self.process = subprocess.Popen([*self.command, '--port', str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.log_file, env=self.environment, text=True)
        found = re.search(r' at (http://\S+)', self.process.stdout.readline())
        if not found:
            self.process.wait()
            raise Failed(f'linnet serve: {self.log()}')
        self.url = found[1]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def restart(self):
        self.end()
        self.start(int(self.url.rpartition(':')[2]))

    def health(self):
        with urllib.request.urlopen(self.url + '/health') as answer:
            return json.load(answer)

    def log(self):
        return Path(self.log_file.name).read_text()

    def stop(self):
        self.end()
        self.log_file.close()
        self.folder.cleanup()


TESTS = {name.removeprefix('test_'): test for name, test in list(globals().items()) if name.startswith('test_')}


def run(name, browser, program, screenshots):
    """One test on a page and against a server of its own. What went wrong, or None."""
    server = page = None
    try:
        if name in REAL:
            test, options, environment = REAL[name]
            server = RealServer(program, options, environment)
        else:
            test, server = TESTS[name], Server().start()
        page = browser.page(server.url)
        page.dark(False)
        page.shot = lambda what: screenshots and page.screenshot(Path(screenshots) / f'{what}.png')
        if server.model:
            page.wait(f'document.querySelector("#model").textContent === "{server.model}"')
        test(page, server)
        # Where a server has ended, the page asks for it again and again.
        expect('the console', [c for c in page.complaints() if 'ERR_CONNECTION_REFUSED' not in c], [])
        return None
    except Failed as failure:
        return str(failure)
    finally:
        if page:
            page.close()
        if server:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description='Drives the chat page in headless chromium.')
    parser.add_argument('--screenshots', metavar='FOLDER', help='keep pictures of the page there')
    parser.add_argument('--program', help='linnet, for the tests that begin with real_')
    parser.add_argument('tests', nargs='*', metavar='TEST', help=', '.join([*TESTS, *REAL]))
    arguments = parser.parse_args()
    names = arguments.tests or [*TESTS, *(REAL if arguments.program else ())]
    chromium = find_chromium()
    if not chromium:
        print('browser_test: skipped: no chromium')
        return 77
    failed = 0
    browser = Browser(chromium)
    try:
        for name in names:
            started = time.monotonic()
            failure = run(name, browser, arguments.program, arguments.screenshots)
            failed += failure is not None
            print(f'{"FAILED" if failure else "ok":6} {time.monotonic() - started:5.1f} s  {name}{": " + failure if failure else ""}',
                  flush=True)
    finally:
        browser.close()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())

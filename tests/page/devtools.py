"""A browser to drive: headless chromium over the pipe of its DevTools protocol. Python's standard library only."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PATIENCE = 20  # seconds for anything to happen, on a machine that is busy with other things

KEYS = {'Enter': (13, '\r'), 'Escape': (27, ''), 'Tab': (9, ''), 'ArrowUp': (38, ''), ' ': (32, ' '), '/': (191, '/')}


def find_chromium():
    return next(filter(None, (shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome'))), None)


class Failed(Exception):
    pass


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp(prefix='linnet-browser-')
        to_browser, self.output = os.pipe()
        self.input, from_browser = os.pipe()
        arguments = [program, '--headless=new', '--remote-debugging-pipe', f'--user-data-dir={self.profile}', '--no-first-run',
                     '--disable-gpu', '--disable-dev-shm-usage', '--disable-extensions', '--disable-background-networking',
                     '--force-color-profile=srgb', '--lang=en']
        if os.geteuid() == 0:
            arguments.append('--no-sandbox')
        # Chromium reads commands from file 3 and writes answers to file 4.
        self.process = subprocess.Popen(['/bin/sh', '-c', f'exec "$@" 3<&{to_browser} 4>&{from_browser}', 'sh', *arguments],
                                        pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.next_id, self.events = b'', 0, []

    def close(self):
        try:
            self.call('Browser.close')
            self.process.wait(10)
        except (Failed, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.input)
        os.close(self.output)
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self, deadline):
        while b'\0' not in self.buffer:
            if not select.select([self.input], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failed('the browser does not answer')
            data = os.read(self.input, 1 << 20)
            if not data:
                raise Failed('the browser has ended')
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(text)

    def call(self, method, session=None, **parameters):
        self.next_id += 1
        request = {'id': self.next_id, 'method': method, 'params': parameters}
        if session:
            request['sessionId'] = session
        os.write(self.output, json.dumps(request).encode() + b'\0')
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self.message(deadline)
            if message.get('id') == self.next_id:
                if 'error' in message:
                    raise Failed(f'{method}: {message["error"]["message"]}')
                return message['result']
            self.events.append(message)

    def page(self, url, width=1100, height=760):
        context = self.call('Target.createBrowserContext')['browserContextId']  # a browser of its own: storage, connections
        target = self.call('Target.createTarget', url='about:blank', browserContextId=context)['targetId']
        session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        return Page(self, context, session, url, width, height)


class Page:
    def __init__(self, browser, context, session, url, width, height):
        self.browser, self.context, self.session = browser, context, session
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')
        self.size(width, height)
        self.go(url)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def close(self):
        self.browser.call('Target.disposeBrowserContext', browserContextId=self.context)

    def go(self, url):
        self.call('Page.navigate', url=url)
        self.wait('document.readyState === "complete"')

    def size(self, width, height):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on):
        self.call('Emulation.setEmulatedMedia',
                  features=[{'name': 'prefers-color-scheme', 'value': 'dark' if on else 'light'}])

    def js(self, expression):
        """The value of an expression, or of what its promise brings."""
        answer = self.call('Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if 'exceptionDetails' in answer:
            details = answer['exceptionDetails']
            raise Failed(f'{expression}: {details.get("exception", {}).get("description", details["text"])}')
        return answer['result'].get('value')

    def wait(self, expression, what=None):
        """Until the expression is true."""
        deadline = time.monotonic() + PATIENCE
        while True:
            value = self.js(expression)
            if value not in (None, False, 0, ''):  # an element comes as {}
                return value
            if time.monotonic() > deadline:
                raise Failed(f'never came true: {what or expression}')
            time.sleep(0.02)

    def key(self, key, modifiers=0):
        code, text = KEYS[key]
        if key == 'Enter' and modifiers:
            text = '\r'
        common = {'key': key, 'windowsVirtualKeyCode': code, 'modifiers': modifiers}
        self.call('Input.dispatchKeyEvent', type='keyDown' if text else 'rawKeyDown', text=text, **common)
        self.call('Input.dispatchKeyEvent', type='keyUp', **common)

    def type(self, text):
        self.call('Input.insertText', text=text)

    def click(self, selector):
        """A real click in the middle of what the selector finds."""
        x, y = self.wait(f'''(() => {{
            const found = document.querySelector({json.dumps(selector)});
            if (!found) return null;
            found.scrollIntoView({{block: "nearest"}});
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()''', f'{selector} is there')
        for kind in ('mouseMoved', 'mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def screenshot(self, file):
        data = self.call('Page.captureScreenshot', format='png')['data']
        with open(file, 'wb') as out:
            out.write(base64.b64decode(data))

    def complaints(self):
        """What the page has written to its console since the last call: exceptions, refusals by the security policy."""
        self.js('1')  # what came before is here then
        found, rest = [], []
        for event in self.browser.events:
            parameters = event.get('params', {})
            if event.get('sessionId') != self.session:
                rest.append(event)
            elif event['method'] == 'Runtime.exceptionThrown':
                details = parameters['exceptionDetails']
                found.append(details.get('exception', {}).get('description', details['text']))
            elif event['method'] == 'Log.entryAdded':
                found.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            elif event['method'] == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning', 'assert'):
                found.append(' '.join(str(a.get('value', a.get('description'))) for a in parameters['args']))
        self.browser.events = rest
        return found

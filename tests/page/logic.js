// Tests of the page's logic that needs no page. tests/page/browser_test evaluates this in the page; the value is a list of failures.
(async () => {
  const url = name => new URL(`page/${name}`, document.baseURI).href;
  const markdown = await import(url('markdown.js'));
  const tree = await import(url('conversation.js'));
  const {EventReader} = await import(url('api.js'));
  const reply = await import(url('reply.js'));
  const failures = [];
  const equal = (what, got, expected) => {
    const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
    if (a !== b) failures.push(`${what}: expected ${b}, got ${a}`);
  };
  const throws = (what, part, run) => {
    try {
      run();
      failures.push(`${what}: expected an error`);
    } catch (error) {
      if (!error.message.includes(part)) failures.push(`${what}: expected "${part}", got "${error.message}"`);
    }
  };

  // Server-sent events: any cut of the stream gives the same events.
  const stream = ': note\r\ndata: {"a":1}\r\n\r\ndata:x\ndata: y\n\nevent: z\rdata: é春\r\r\ndata: [DONE]\n\n';
  for (let step = 1; step <= stream.length; ++step) {
    const reader = new EventReader();
    const events = [];
    for (let i = 0; i < stream.length; i += step) events.push(...reader.push(stream.slice(i, i + step)));
    equal(`events in pieces of ${step}`, events, ['{"a":1}', 'x\ny', 'é春', '[DONE]']);
  }
  equal('half an event', new EventReader().push('data: 1\n'), []);

  // Blocks.
  const kinds = text => markdown.parse(text).map(block => block.kind);
  equal('nothing', kinds(''), []);
  equal('paragraphs', kinds('a\nb\n\n \t\nc'), ['paragraph', 'paragraph']);
  equal('line breaks', markdown.parse('　　a\n  b ')[0].text, '　　a\n  b ');
  equal('all kinds', kinds('# a\ntext\n> q\n> r\n\n- x\n- y\n\n1. z\n\n---\n```\nc\n```'),
        ['heading', 'paragraph', 'quote', 'list', 'list', 'rule', 'code']);
  equal('code keeps everything', markdown.parse('```js\n# a\n\n- b\n```\nz')[0].text, '# a\n\n- b');
  equal('code without its end', markdown.parse('~~~\na\n```').map(b => [b.kind, b.text]), [['code', 'a\n```']]);
  equal('a longer fence holds a shorter one', markdown.parse('````\n```\n````')[0].text, '```');
  equal('a dash inside prose', kinds('He said -\n- and left'), ['paragraph']);
  equal('list numbers', markdown.parse('3. a\n4) b')[0].first, 3);
  const sample = '# t\n\npara *one*\n\n```\ncode\n```\n- l\n';
  equal('sources are the text', markdown.parse(sample).map(b => b.source).join('|'), '# t|para *one*|```\ncode\n```|- l');
  for (const hostile of ['`'.repeat(3000), '*'.repeat(3000), '> '.repeat(2000), '*a '.repeat(2000), '**a'.repeat(2000), '`a'.repeat(3000)]) {
    const started = performance.now();
    markdown.parse(hostile).forEach(block => markdown.spans(block.text ?? ''));
    if (performance.now() - started > 5000) failures.push(`${hostile.slice(0, 6)}...: takes too long`);
  }

  // Spans.
  const flat = text => markdown.spans(text).map(span => `${span.kind[0]}:${span.text}`);
  equal('marks', flat('a **b** *c* `d*e*`'), ['t:a ', 's:b', 't: ', 'e:c', 't: ', 'c:d*e*']);
  equal('no marks', flat('2 * 3 * 4 ** 5 snake_case_name `open'), ['t:2 * 3 * 4 ** 5 snake_case_name `open']);
  equal('HTML is text', flat('<b onclick=x>'), ['t:<b onclick=x>']);
  equal('scripts', ['春眠不覺曉', 'hello 春', 'さくら咲く', '안녕', '', '123'].map(markdown.script), ['zh', '', 'ja', 'ko', '', '']);
  equal('verse', ['春眠不覺曉\n處處聞啼鳥', '春眠不覺曉', 'a\nb', `${'長'.repeat(40)}\n短`].map(markdown.isVerse), [true, false, false, false]);

  // The tree of turns.
  const talk = tree.newConversation('be brief');
  const a = tree.addTurn(talk, '', 'user', 'a');
  const b = tree.addTurn(talk, a.id, 'assistant', 'b');
  const c = tree.addTurn(talk, b.id, 'user', 'c');
  const b2 = tree.addTurn(talk, a.id, 'assistant', 'b2');
  const shown = () => tree.path(talk).map(turn => turn.content).join(' ');
  equal('a new branch is shown', shown(), 'a b2');
  equal('branches', tree.branches(talk, b2), {at: 1, of: 2, previous: b.id});
  tree.choose(talk, b.id);
  equal('the old branch with what is below', shown(), 'a b c');
  equal('messages', tree.messages(talk, c.id).map(m => `${m.role}:${m.content}`),
        ['system:be brief', 'user:a', 'assistant:b', 'user:c']);
  equal('no system prompt', tree.messages({...talk, system: ''}, a.id), [{role: 'user', content: 'a'}]);
  equal('ids differ', new Set(Array.from({length: 1000}, tree.newId)).size, 1000);
  equal('title', tree.title(talk), 'a');
  const copy = tree.imported(tree.exported([talk]))[0];
  equal('import: same shape', [tree.path(copy).map(t => t.content), copy.system, copy.updated], [['a', 'b', 'c'], 'be brief', talk.updated]);
  equal('import: all branches', tree.branches(copy, tree.path(copy)[1]).of, 2);
  equal('import: new ids', Object.keys(copy.turns).some(id => id in talk.turns), false);
  tree.removeTurn(talk, b2.id);
  equal('removed', shown(), 'a b c');
  throws('import: not JSON', 'not JSON', () => tree.imported('{'));
  throws('import: other JSON', 'does not hold', () => tree.imported('{"a": 1}'));
  const file = turns => JSON.stringify({format: 'linnet-conversations', version: 1, conversations: [{turns}]});
  throws('import: a loop', 'parent', () => tree.imported(file({x: {parent: 'x', role: 'user', content: ''}})));
  throws('import: a role', 'role', () => tree.imported(file({x: {parent: '', role: 'system', content: ''}})));
  throws('import: no text', 'text', () => tree.imported(file({x: {parent: '', role: 'user', content: 1}})));
  throws('import: null', 'turns', () => tree.imported('{"format": "linnet-conversations", "version": 1, "conversations": [null]}'));

  // Requests and measures.
  const settings = {temperature: '0', top_p: '', max_tokens: '64', seed: '7'};
  equal('request', reply.requestBody('m', [], settings, 7),
        {model: 'm', messages: [], stream: true, stream_options: {include_usage: true}, seed: 7, temperature: 0, max_tokens: 64});
  equal('seed', [reply.seedOf(settings, 0), reply.seedOf(settings, 2)], [7, 9]);
  equal('note', reply.noteText({tokens: 42, seconds: 0.5, first: 0.123, prompt: 1402, cached: 1384, seed: 7}),
        '42 tokens · 82 tokens/s · first after 0.12 s · 1,384 of 1,402 prompt tokens cached · seed 7');
  equal('note of little', [reply.noteText(null), reply.noteText({tokens: 1, seconds: 0, first: 1})], ['', '1 token · first after 1.00 s']);

  // Sessions.
  const {fromMessages, nameFor} = await import(url('sessions.js'));
  equal('names', ['Hello, world!', '《春曉》', '...a', 'x'.repeat(60)].map(text => nameFor(text, 'day')),
        ['hello-world', 'conversation-day', 'a', 'x'.repeat(40)]);
  const loaded = fromMessages([{role: 'system', content: 's'}, {role: 'user', content: [{type: 'text', text: 'u'}]}, {role: 'assistant', content: 'a'}]);
  equal('messages come back', tree.messages(loaded, tree.path(loaded)[1].id).map(m => m.role + m.content), ['systems', 'useru', 'assistanta']);
  return failures;
})()

"""The tools that everyone writes first (weather, search, mail), with the ways people ask for them."""

from .. import lexicon as lx
from ..sample import call
from . import toolbox
from .toolbox import Param

# names | description | parameters: (names, kind or options, required) | requests; {0} is the first parameter
TABLE = (
    ("get_weather|get_current_weather|weather|fetch_weather|get_forecast", "Get the current weather for a city|Current weather at a location|Get weather information",
     (("city|location|place", "city", 1), ("unit|units", "celsius|fahrenheit", 0)),
     "What's the weather in {0}?|What is the weather in {0}?|weather in {0}|How is the weather in {0} today?|Is it raining in {0}?|What's the weather like in {0}?|"
     "Tell me the weather in {0}.|How warm is it in {0}?|What is the temperature in {0}?|Weather for {0} please|What's the weather in {0} in {1}?|"
     "Give me the weather in {0} in {1}.|Do I need an umbrella in {0}?|How's the weather in {0} right now?|check the weather in {0}"),
    ("get_time|current_time|get_current_time|time_in", "Get the current time in a city|Current local time", (("city|location|timezone|place", "city", 1),),
     "What time is it in {0}?|time in {0}|What's the time in {0}?|Tell me the current time in {0}.|current time in {0}"),
    ("search|web_search|search_web|google_search", "Search the web|Search the internet for a query", (("query|q", "phrase", 1), ("limit|max_results|count", "small", 0)),
     'Search for {0}|Search the web for {0}.|Look up {0}|google {0}|Find information about {0}.|Search for "{0}"|Find {1} results for {0}|search the web for {0} with limit {1}'),
    ("send_email|email|send_mail", "Send an email|Sends an e-mail message", (("to|recipient|address", "email", 1), ("subject|title", "quoted", 1), ("body|text|content", "quoted", 1)),
     'Send an email to {0} with subject "{1}" and body "{2}".|Email {0}: subject "{1}", text "{2}"|Write to {0} with the subject "{1}" saying "{2}"|'
     'send a mail to {0}, subject "{1}", body "{2}"'),
    ("send_message|send_sms|message|text_contact", "Send a message to a contact", (("recipient|contact|to|name", "first", 1), ("text|message|body", "quoted", 1)),
     'Send {0} the message "{1}".|Text {0}: "{1}"|Tell {0} "{1}"|Message {0} saying "{1}"|send a message to {0}: "{1}"'),
    ("set_timer|start_timer|timer", "Set a timer", (("minutes|duration|duration_minutes", "small", 1),),
     "Set a timer for {0} minutes.|timer {0} minutes|Start a timer for {0} minutes|Wake me in {0} minutes|{0} minute timer please"),
    ("set_alarm|create_alarm|alarm", "Set an alarm", (("time|at", "time", 1),), "Set an alarm for {0}.|Wake me at {0}|alarm at {0}|Set my alarm to {0}"),
    ("create_event|add_event|schedule_meeting|create_calendar_event", "Create a calendar event",
     (("title|name|summary", "quoted", 1), ("date|day", "date", 1), ("time|start|start_time", "time", 0)),
     'Create an event "{0}" on {1}.|Schedule "{0}" on {1} at {2}.|Add "{0}" to my calendar on {1} at {2}|Put "{0}" on {1} in my calendar|New event "{0}" for {1} at {2}'),
    ("get_stock_price|stock_price|get_quote", "Get the price of a stock", (("symbol|ticker", "ticker", 1),),
     "What is the stock price of {0}?|price of {0}|How is {0} trading?|Get the quote for {0}|stock price for {0}"),
    ("convert_currency|currency_convert|exchange", "Convert an amount of money from one currency to another",
     (("amount|value", "integer", 1), ("from|from_currency|source", "currency", 1), ("to|to_currency|target", "currency", 1)),
     "Convert {0} {1} to {2}.|How much is {0} {1} in {2}?|{0} {1} in {2}|exchange {0} {1} into {2}"),
    ("calculate|calculator|evaluate|math", "Evaluate a mathematical expression", (("expression|expr|input", "expression", 1),),
     "Use the calculator for {0}.|Calculate {0} with the tool|Evaluate {0} with your calculator|calculator: {0}"),
    ("add|add_numbers|sum", "Add two numbers", (("a|x|first", "integer", 1), ("b|y|second", "integer", 1)),
     "Add {0} and {1} with the tool.|Use the tool to add {0} and {1}|call the tool with {0} and {1}"),
    ("multiply|multiply_numbers|product", "Multiply two numbers", (("a|x|first", "integer", 1), ("b|y|second", "integer", 1)),
     "Multiply {0} by {1} with the tool.|Use the tool to multiply {0} and {1}|Multiply {0} and {1} using the tool"),
    ("translate|translate_text", "Translate text into another language", (("text|input", "quoted", 1), ("target_language|language|to|target", "language", 1)),
     'Translate "{0}" to {1}.|Translate "{0}" into {1}|How do you say "{0}" in {1}?|What is "{0}" in {1}?'),
    ("play_music|play_song|play", "Play a song", (("song|title|track", "quoted", 1), ("artist|by", "person", 0)),
     'Play "{0}".|Play "{0}" by {1}.|I want to hear "{0}" by {1}|put on "{0}"'),
    ("turn_on|turn_on_light|light_on|switch_on", "Turn on the light in a room", (("room|location", "room", 1),),
     "Turn on the light in the {0}.|Lights on in the {0}|Switch on the {0} light|turn the {0} light on"),
    ("set_temperature|set_thermostat|thermostat", "Set the temperature of a room", (("degrees|temperature|value", "small", 1), ("room|location", "room", 0)),
     "Set the temperature to {0} degrees.|Set the {1} to {0} degrees.|Make it {0} degrees in the {1}|heat the {1} to {0} degrees"),
    ("book_flight|search_flights|find_flights", "Find or book a flight",
     (("from|origin|departure|from_city", "city", 1), ("to|destination|to_city", "city", 1), ("date|day|departure_date", "date", 0)),
     "Book a flight from {0} to {1}.|Book a flight from {0} to {1} on {2}.|Find flights from {0} to {1} on {2}|I want to fly from {0} to {1}|flights from {0} to {1}"),
    ("book_hotel|find_hotel|search_hotels", "Find a hotel", (("city|location", "city", 1), ("nights|count", "small", 0)),
     "Find a hotel in {0}.|Book a hotel in {0} for {1} nights.|I need a hotel in {0} for {1} nights|hotel in {0}"),
    ("find_restaurants|search_restaurants|restaurants", "Find restaurants", (("cuisine|kind|type", "cuisine", 1), ("city|location", "city", 1)),
     "Find {0} restaurants in {1}.|Where can I eat {0} food in {1}?|{0} restaurant in {1}|I want {0} food in {1}"),
    ("read_file|open_file|cat_file|get_file", "Read a file", (("path|file|filename|file_path", "path", 1),),
     "Read {0}.|Read the file {0}|Show me {0}|Open {0}|What is in {0}?|cat {0}|print the contents of {0}"),
    ("write_file|save_file|create_file", "Write text to a file", (("path|file|filename", "path", 1), ("content|text|contents", "quoted", 1)),
     'Write "{1}" to {0}.|Save "{1}" in {0}|Create {0} with the text "{1}"|put "{1}" into the file {0}'),
    ("list_directory|list_files|ls", "List the files in a directory", (("path|directory|dir|folder", "folder", 1),),
     "List the files in {0}.|What files are in {0}?|ls {0}|Show the folder {0}|list {0}"),
    ("run_command|shell|bash|execute", "Run a shell command", (("command|cmd", "command", 1),),
     "Run `{0}`.|Execute `{0}`|run the command `{0}`|please run `{0}`"),
    ("grep|search_files|find_in_files", "Search for a pattern in files", (("pattern|regex|text", "word", 1), ("path|directory", "path", 0)),
     'Search for "{0}" in {1}.|grep {0} in {1}|Find "{0}" in {1}|Search the files for "{0}"'),
    ("get_order|lookup_order|order_status|get_order_status", "Look up an order", (("order_id|id|order", "code", 1),),
     "Where is my order {0}?|Look up order {0}.|What is the status of order {0}?|order {0} status|Check order {0}"),
    ("get_user|lookup_user|find_user|get_customer", "Look up a user", (("user_id|id|user", "code", 1),),
     "Look up user {0}.|Show me the user {0}|Get user {0}|Who is user {0}?|find customer {0}"),
    ("add_todo|create_task|add_task|todo", "Add a task to the list", (("task|title|text|item", "quoted", 1),),
     'Add "{0}" to my list.|New task: "{0}"|Add the task "{0}"|todo "{0}"|Remind me to "{0}"'),
    ("roll_dice|roll|dice", "Roll a die", (("sides|faces", "small", 1), ("count|times|rolls", "small", 0)),
     "Roll a {0}-sided die.|Roll a die with {0} sides|Roll a {0}-sided die {1} times."),
    ("get_population|population", "Population of a city", (("city|place|location", "city", 1),), "How many people live in {0}?|What is the population of {0}?|population of {0}"),
    ("get_definition|define|dictionary", "Look up a word in the dictionary", (("word|term", "word", 1),),
     'Define {0}.|What does "{0}" mean?|Look up the word {0}|definition of {0}'),
)  # fmt: skip
COMMANDS = ("ls -la", "git status", "git diff", "pwd", "make test", "pytest -q", "python {p}", "cat {p}", "wc -l {p}", "rm {p}", "mkdir {w}", "echo {w}", "grep {w} {p}")


def _value(world, kind):
    if "|" in kind:
        return world.pick(kind.split("|"))
    makers = {
        "city": world.city, "phrase": lambda: world.phrase(1, 4), "small": lambda: world.int(1, 60), "email": world.email, "first": world.first,
        "quoted": lambda: world.pick((world.phrase(1, 5), world.title(), f"{world.phrase(2, 4).capitalize()}!")), "time": world.time, "date": world.date,
        "ticker": lambda: "".join(world.pick("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(world.int(2, 4))), "integer": world.number,
        "currency": lambda: world.pick("USD EUR GBP JPY CHF SEK NOK DKK PLN CAD AUD INR CNY BRL".split()),
        "expression": lambda: f"{world.number()} {world.pick('+-*/')} {world.number()}", "language": lambda: world.pick(lx.LANGUAGES),
        "person": world.person, "room": lambda: world.pick("kitchen bathroom bedroom hall office garage garden attic cellar study".split() + ["living room"]),
        "cuisine": lambda: world.pick(lx.CUISINES), "path": world.path, "folder": lambda: world.pick((".", "/tmp", "src", world.word(), f"/{world.word()}/{world.word()}")),
        "command": lambda: world.pick(COMMANDS).format(p=world.path(), w=world.word()), "word": world.rare, "code": world.code,
    }  # fmt: skip
    return makers[kind]()


def _params(world, row):
    for names, kind, required in row[2]:
        name = world.pick(names.split("|"))
        options = tuple(kind.split("|")) if "|" in kind else ()
        about = world.pick(("", "", f"The {toolbox.spaced(name)}", f"{names.split('|')[0].capitalize()} to use"))
        yield Param(name, "integer" if kind in ("small", "integer") else "enum" if options else "text", options, bool(required), about)


def build(world, row):
    about = world.pick(row[1].split("|"))
    return toolbox.Tool(world.pick(row[0].split("|")), "", "", about + world.pick(("", ".")), tuple(_params(world, row)))


def _request(world, row, tool):
    """(prompt, arguments): a parameter is given exactly when the request mentions it."""
    text = world.pick(row[3].split("|"))
    values = [_value(world, kind) for _, kind, _ in row[2]]
    args = {p.name: v for i, (p, v) in enumerate(zip(tool.params, values, strict=True)) if f"{{{i}}}" in text}
    return text.format(*values), args


def _box(world, rows):
    """Specs of the rows' tools and some others."""
    tools = [build(world, row) for row in rows]
    others = [build(world, row) for row in world.sample(TABLE, world.pick((0, 0, 1, 2, 3))) if row not in rows]
    if world.chance(0.25):
        others += toolbox.boxful(world, world.int(1, 2))
    names = {t.name for t in tools}
    others = list({t.name: t for t in others if t.name not in names}.values())
    return tools, [toolbox.spec(world, t) for t in world.shuffled(tools + others)]


def _why(tool, args):
    return f"I need {tool.name} with " + ", ".join(f"{k} = {v}" for k, v in args.items()) + "."


def one(world):
    row = world.pick(TABLE)
    tools, specs = _box(world, [row])
    prompt, args = _request(world, row, tools[0])
    return prompt, specs, [call(tools[0].name, args)], _why(tools[0], args) if world.chance(0.3) else ""


def _cities(world, row, tool):
    """One question for several cities."""
    cities = world.list_of(world.city, 2, 3)
    what = row[3].split("|")[0].split(" {0}")[0]
    join = world.pick((" and ", " and in ")) if len(cities) == 2 else None
    listed = join.join(cities) if join else ", ".join(cities[:-1]) + " and " + cities[-1]
    return f"{what} {listed}?", [(tool, {tool.params[0].name: c}) for c in cities]


def parallel(world):
    if world.chance(0.45):
        row = world.pick([TABLE[0], TABLE[0], TABLE[1], TABLE[-2]])
        (tool,), specs = _box(world, [row])
        prompt, jobs = _cities(world, row, tool)
    else:
        rows = world.sample(TABLE, 2)
        tools, specs = _box(world, rows)
        pairs = [_request(world, row, t) for row, t in zip(rows, tools, strict=True)]
        prompt = world.pick((" And ", " Also: ", "\n", " Then ", " and ")).join(p for p, _ in pairs)
        jobs = [(t, args) for t, (_, args) in zip(tools, pairs, strict=True)]
    reasoning = " ".join(_why(t, args) for t, args in jobs) if world.chance(0.25) else ""
    return prompt, specs, [call(t.name, args) for t, args in jobs], reasoning


def harmless(world):
    """Tools that no small talk needs."""
    rows = [row for row in TABLE if not row[0].startswith(("calculate", "add|", "multiply", "search|", "get_def", "translate", "run_command"))]
    return [toolbox.spec(world, build(world, row)) for row in world.sample(rows, world.int(1, 4))]

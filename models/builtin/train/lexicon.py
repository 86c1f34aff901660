"""Hand-written word lists: names, places, things, verbs. `World` draws from them by split."""

FIRST = """Anna Ben Carla David Elena Farid Grace Hugo Ines Jonas Kira Liam Marta Nadia Omar Paula Quentin Rosa Samir Tara Uma Victor
Wanda Xavier Yara Zoe Alice Bruno Chloe Dmitri Emma Felix Greta Hana Igor Julia Karim Lena Mateo Nora Oscar Priya Rafael Sofia Tomas
Ursula Vera Walter Ximena Yusuf Zara Amir Bella Cesar Daria Elias Fiona Gustav Helen Ivan Jasmin Kofi Lucia Milan Nina Otto Petra Ravi
Selma Theo Udo Viola Wei Yuki Zeno Aiko Bjorn Clara Diego Esra Finn Gloria Henrik Isla Jorge Kenji Laila Mila Noah Olga Pablo Rita Stefan
Tess Umar Vince Willa Yann Zelda Arthur Bianca Conrad Dora Edgar Freya Gavin Hilda Ian Joan Kurt Leah Max Nell Oliver Pia Rob Susan Tim
Maria John Mary Peter James Linda Sarah Tom Bob Mike Jane Kate Lucy Sam Alex Chris Robin Jamie Mona Nils Ole Per Quinn Rune Sven Tilda""".split()

LAST = """Smith Jones Brown Garcia Miller Davis Lopez Wilson Moore Taylor Lee White Harris Clark Lewis Walker Hall Young King Wright Hill
Green Adams Baker Nelson Carter Reyes Stewart Morris Rogers Reed Cook Bell Bailey Cooper Ward Cox Gray Wood Fischer Weber Meyer Wagner
Becker Schulz Hoffmann Koch Bauer Richter Klein Wolf Neumann Schwarz Braun Zimmermann Kruger Lang Rossi Russo Ferrari Bianchi Romano
Costa Silva Santos Ferreira Almeida Novak Kowalski Nowak Petrov Ivanov Sato Suzuki Tanaka Kim Park Chen Wang Singh Patel Khan Haddad
Okafor Mensah Diallo Larsen Hansen Berg Lind Dahl Holm Strand Vik Moen Lund Virtanen Korhonen""".split()

CITIES = """Paris London Berlin Madrid Rome Lisbon Vienna Prague Warsaw Athens Dublin Oslo Stockholm Helsinki Copenhagen Amsterdam Brussels
Zurich Geneva Munich Hamburg Milan Naples Turin Venice Barcelona Seville Valencia Porto Lyon Nice Toulouse Bordeaux Budapest Bucharest Sofia
Belgrade Zagreb Riga Vilnius Tallinn Kyiv Istanbul Ankara Cairo Tunis Rabat Lagos Accra Nairobi Dakar Tokyo Osaka Kyoto Seoul Busan Beijing
Shanghai Taipei Hanoi Bangkok Manila Jakarta Singapore Delhi Mumbai Chennai Karachi Lahore Tehran Baghdad Riyadh Dubai Doha Sydney Melbourne
Perth Auckland Toronto Montreal Vancouver Ottawa Chicago Boston Seattle Denver Austin Dallas Houston Miami Atlanta Phoenix Portland
Lima Bogota Quito Santiago Caracas Havana Kingston Bergen Ghent Basel Graz Leeds Bristol Cardiff Glasgow Cork Malaga Bilbao Leipzig
Tampere Uppsala Aarhus Utrecht Krakow Gdansk Brno Debrecen Split Varna Izmir Alexandria Casablanca""".split()

PLACES = ["New York", "Los Angeles", "San Francisco", "Hong Kong", "Buenos Aires", "Rio de Janeiro", "Cape Town", "Mexico City",
          "Tel Aviv", "Abu Dhabi", "Kuala Lumpur", "St. Louis", "New Delhi", "Salt Lake City", "The Hague", "San Diego"]  # fmt: skip

THINGS = """apple pear lemon plum cherry book pencil lamp chair table bottle ticket coin stamp button candle basket blanket hammer nail
screw brick plank rope bucket ladder shovel brush towel mirror clock camera radio phone keyboard mouse cable battery charger laptop tablet
printer monitor speaker guitar violin drum flute piano kite ball racket helmet glove scarf jacket coat shirt sock shoe boot hat belt bag
wallet ring necklace bracelet vase plate bowl cup spoon fork knife pan kettle oven fridge heater fan pillow carpet curtain sofa shelf drawer
notebook envelope folder poster magnet sticker puzzle marble shell feather leaf seed acorn cookie muffin pancake sandwich carrot potato
tomato onion pumpkin orange banana melon grape walnut almond biscuit bagel waffle pretzel teapot compass lantern anchor barrel crate""".split()

ANIMALS = "fox hare owl badger otter hedgehog heron beaver lynx wolf bear deer mole robin raven swan goose frog newt turtle crab seal whale".split()

COLOURS = "red blue green yellow orange purple black white grey brown pink silver golden violet turquoise crimson beige teal maroon navy".split()

ADJECTIVES = """small large old new quiet bright dark cold warm heavy light smooth rough early late modern ancient narrow wide deep
simple strange famous friendly busy empty curious gentle brave clever lazy patient careful proud lucky""".split()

JOBS = """teacher baker engineer nurse doctor painter lawyer farmer pilot chef carpenter plumber gardener librarian architect translator
electrician photographer musician journalist designer mechanic dentist pharmacist tailor firefighter sailor miner potter judge""".split()

VERBS = """create delete update list find get fetch load save send open close start stop pause resume rename copy move merge split sort filter
count check verify validate publish archive restore reset restart enable disable lock unlock schedule cancel confirm approve reject assign
release reserve book order refund print scan parse convert compress encode decode render draw resize rotate crop upload download import export
sync share invite notify remind record measure estimate predict compare track monitor register subscribe attach detach link mount tag label
rate rank vote plan route dispatch deliver pack ship store replace repair clean wash water feed charge cook bake brew mix paint polish
inspect review summarize translate transcribe annotate evaluate adjust calibrate increase decrease raise lower double lend borrow rent sell
buy trade transfer deposit withdraw pay bill quote""".split()

COMPANIES = "Works Labs Systems Foods Motors Press Mills Trading Energy Studios Textiles Logistics Optics Robotics Instruments Partners".split()

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DOMAINS = "example.com mail.org post.net office.io company.com school.edu inbox.dev home.net".split()
CUISINES = "italian french thai indian mexican japanese chinese greek turkish spanish korean vietnamese lebanese".split()
LANGUAGES = "French German Spanish Italian Portuguese Dutch Polish Swedish Danish Finnish Greek Turkish Arabic Hindi Japanese Korean Chinese".split()
SYLLABLES = """ba be bi bo bu da de di do du fa fe fi fo ga ge go gu ha he hi ho ja jo ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni
no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi za ze zi zo cha sha tha bra cre dro flo gri kla plo sta
tro vin mar len tor bel dan kor min sol ren zan quo xe yl yr""".split()

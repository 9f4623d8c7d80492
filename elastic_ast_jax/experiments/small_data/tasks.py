"""List the tasks of the small-data study: packages, clips, classes and groups.

Each task is a set of real recordings inside packages that anyone can install: games, a drum
machine, telephone prompts, instruments. The class of a clip follows from its path. A group is what
training and evaluation may not share: a drum kit, a character, a sentence. Where no group can be
held out without a whole class, each clip is its own group, and the task says why.

Three tasks are for development: choices of recipes may look at their training clips. The others
are held back, and measured once, at the end. The division was decided before any model was trained
on them. Each kind of sound is on both sides: pitched notes (`instruments`, related to `drums`),
sounds of a game with held out sources (`battle`, related to `cries` and `keyboards`), and speech
(`voices`, related to `words`, `prompts` and `dialogues`). No package is on both sides. The Free
Spoken Digit Dataset is a further task; it is not in a package.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Literal, NamedTuple

__all__ = ['TASKS', 'Package', 'Rule', 'Task']

_KITS = (
    r'hydrogen-(?:data|drumkits)/usr/share/hydrogen/data/drumkits/'
    r'(BJA_Pacific|ColomboAcousticDrumkit|ForzeeStereo|GMRockKit|Millo-Drums_v\.1'
    r'|Millo_MultiLayered[23])/'
)
# The beginning of the file's name for each class, over all kits.
_DRUMS = {
    'kick': 'BD_|bd|bassdrum|Kick',
    'open hi-hat': 'HH2_|hihat-(?:semi-)?open|HiHat(?:Semio|O)pen|openhat|hhopen|ho_'
    '|Hat(?:Semi)?Open',
    'closed hi-hat': 'HH_|hihat-closed|HiHat(?:Closed|Foot)|closehihat|pedalhihat'
    '|hh(?:closed|pedal)|hh_|Hat(?:Closed|Pedal)',
    'side stick': 'stick-rim|RimClick|stick_Woody|rim_|rs_|SideStick',
    'snare': r'SN\d?_|snare|[jr]snare|sd_|sr_|Snare',
    'tom': r'TM2?_|tom|floortom|ft_|t[12]_|Tom',
    'ride': r'RD2?_|BL_|crash\d+i__ride|Ride|ride|rc_|24Ride|Bell',
    'crash': r'CB2?_|crash\d+i__crash|crash_|crash\.|cra_|cc_|Crash18-|Crash-|Splash',
}
_CREATURE = r'wesnoth-1\.16-data/usr/share/games/wesnoth/1\.16/data/core/sounds/'
_WEAPONS = (
    'axe|bite|bite-small|bow|bow-puny|bow-puny-fire|claws|club|crossbow|crossbow-fire|dragonstick'
    '|fist|flail|flame-big|ink|knife|lightning|mace|magic-dark|magic-dark-big|magic-faeriefire'
    '|magic-holy|magic-missile|magic-thorns|melee-fire|mud-fist|mud-glob|pincers|sling|sling-big'
    '|spear|staff|sword|tail|throwing-knife|thunderstick|torch|tusker-charge|wose-attack|wose'
)
_PLAYER = (
    r'(?:openarena-[^/]*/.*\.pk3/sound/player/([a-z]+)'
    r'|nexuiz-data/.*\.pk3/sound/player/([a-z-]+)(?:/player)?)/'
)
_CRIES = {
    'death': r'death\d?',
    'drowning': 'drown',
    'falling': r'falling1?',
    'gasp': 'gasp',
    'jump': r'jump1?',
    'landing': r'fall1?',
    'pain': r'pain\d+(?:_1)?',
}


class Rule(NamedTuple):
    r"""Select clips by path, and name their class and group.

    Attributes:
        pattern: Regular expression of the whole path, `PACKAGE/PATH_IN_PACKAGE`.
        label: Class of the clip; `\1` is the first group of the expression.
        group: What may not be divided; `\g<0>` is the whole path, so the clip alone.
    """

    pattern: str
    label: str
    group: str = r'\g<0>'


@dataclasses.dataclass(frozen=True)
class Package:
    """Name a package of one version.

    Attributes:
        ecosystem: Where it comes from.
        name: Name there.
        version: Exact version.
        license: Licenses of the clips, from the package's own statement.
    """

    ecosystem: Literal['debian', 'npm', 'pypi']
    name: str
    version: str
    license: str


@dataclasses.dataclass(frozen=True)
class Task:
    """Describe a task.

    Attributes:
        name: Name of the task and of its folder.
        question: What is classified.
        packages: Packages that hold the clips.
        rules: The first rule whose pattern is a clip's path decides; other files are not clips.
        group: What a group is, or why there is none.
        clips: Expected number of clips, without duplicates.
        classes: Expected number of classes.
        content: Expected SHA-256 of the sorted paths and SHA-256 of all files that rules select.
        development: Whether choices of recipes may look at its training clips.
    """

    name: str
    question: str
    packages: tuple[Package, ...]
    rules: tuple[Rule, ...]
    group: str
    clips: int
    classes: int
    content: str
    development: bool = False

    @property
    def has_groups(self) -> bool:
        """Return whether groups of several clips exist, which can be held out."""
        return not self.group.startswith('none: ')

    @property
    def role(self) -> str:
        """Return what the task is for, in a word of tables."""
        return 'development' if self.development else 'held back'


def _debian(license_name: str, **versions: str) -> tuple[Package, ...]:
    """Return Debian packages of one license; underscores of their names stand for hyphens."""
    return tuple(
        Package('debian', name.replace('_', '-'), version, license_name)
        for name, version in versions.items()
    )


_INSTRUMENTS = {
    '1.1.1': 'cello guitar-electric guitar-nylon harmonium harp organ violin',
    '1.1.2': 'bass-electric bassoon clarinet contrabass flute french-horn guitar-acoustic piano'
    ' saxophone trombone trumpet tuba xylophone',
}

_LIST = (
    Task(
        name='instruments',
        question='which of twenty instruments plays the note?',
        packages=tuple(
            Package('npm', f'tonejs-instrument-{name}-mp3', version, 'CC-BY-3.0')
            for version, names in _INSTRUMENTS.items()
            for name in names.split()
        ),
        rules=(Rule(r'tonejs-instrument-(.+)-mp3/package/[^/]+\.mp3', r'\1'),),
        group='none: one recorded instrument for each class',
        clips=450,
        classes=20,
        content='7cf484d6f19fad346e898fe599b0bdfbc51b0c0b3dc495eee612b87e03ed354d',
        development=True,
    ),
    Task(
        name='battle',
        question='a creature is hit, a creature dies, a weapon strikes, or a weapon misses?',
        packages=(Package('debian', 'wesnoth-1.16-data', '1:1.16.9-1', 'GPL-2.0-or-later'),),
        rules=(
            Rule(_CREATURE + r'([a-z-]+)-(hit|die)(?:-\d)?\.ogg', r'\2', r'\1'),
            Rule(_CREATURE + rf'({_WEAPONS})(?:-\d)?-miss(?:-\d)?\.ogg', 'miss', r'\1'),
            Rule(_CREATURE + r'(miss)-\d\.ogg', 'miss', r'\1'),
            Rule(_CREATURE + rf'({_WEAPONS})(?:-\d)?\.ogg', 'strike', r'\1'),
        ),
        group='creature or weapon',
        clips=201,
        classes=4,
        content='48129aa7814a6ca24ce85ee7986ddd16da92ee63760703dd9007b2b87f5fee59',
        development=True,
    ),
    Task(
        name='voices',
        question='which of thirteen voices of a game speaks?',
        packages=_debian('GFDL-1.3-only', hedgewars_data='1.0.2-6'),
        # Robot is no human voice, Classic repeats clips of Default, and one line another one.
        rules=(
            Rule(
                r'hedgewars-data/.*/Sounds/voices/(?!Robot|Classic|HillBilly/Leave)(\w+)/([\w-]*?)\d*\.ogg',
                r'\1',
                r'\2',
            ),
        ),
        group='line of the script',
        clips=695,
        classes=13,
        content='6144c7129c02250ac37599071b2f4dfa402f086cf49b9a9d86d62a15af6596d2',
        development=True,
    ),
    Task(
        name='drums',
        question='which drum or cymbal of an acoustic kit?',
        packages=_debian(
            'GPL-2.0-only AND GPL-2.0-or-later AND CC-BY-SA-3.0',
            hydrogen_drumkits='2017.09.19~dfsg-1',
            hydrogen_data='1.2.0~beta1+dfsg-1',
        ),
        rules=tuple(
            Rule(_KITS + rf'(?:{names})[^/]*\.?(?:wav|flac|aiff)', label, r'\1')
            for label, names in _DRUMS.items()
        ),
        group='kit',
        clips=373,
        classes=8,
        content='d8f09df8e8091bfc0f4a736c6d37bddf3887750181d93cf0ffb26a9d131ca25f',
    ),
    Task(
        name='keyboards',
        question='which of nine keyboards is typed on?',
        packages=(Package('pypi', 'keyboardsounds', '6.4.3', 'GPL-3.0-only AND MIT'),),
        # Two clips are shorter than a frame of 25 ms.
        rules=(
            Rule(
                r'keyboardsounds/keyboardsounds/profiles/(?!holy-panda/release_(?:enter|space))'
                r'(alpaca|gateron-black-ink|gateron-red-ink'
                r'|holy-panda|logitech-g915-tkl-brown|mx-black|mx-brown|nk-cream|telios-v2)'
                r'/[^/]+\.(?:wav|mp3)',
                r'\1',
            ),
        ),
        group='none: one recorded keyboard for each class',
        clips=112,
        classes=9,
        content='9941c81b4c165e77acf28f2ae05eea5f230a69f6e091800bde30ab8bb7c0f070',
    ),
    Task(
        name='cries',
        question='why does a character of a game cry out?',
        packages=_debian(
            'GPL-2.0-or-later',
            openarena_081_players='0.8.5split-14',
            openarena_data='0.8.5split-14',
            openarena_088_data='0.8.8-12',
            nexuiz_data='2.5.2-12',
        ),
        rules=tuple(
            Rule(rf'(?i){_PLAYER}{name}\.(?:wav|ogg)', label, r'\1\2')
            for label, name in _CRIES.items()
        ),
        group='character',
        clips=293,
        classes=7,
        content='f5dadb73b85355efe5f125155ca70cfd9ef79d90db90f6e0c16c47ab08fc8e92',
    ),
    Task(
        name='prompts',
        question='which language has the telephone prompt?',
        packages=(
            *_debian(
                'CC-BY-SA-3.0',
                asterisk_core_sounds_en_wav='1.6.1-1',
                asterisk_core_sounds_es_wav='1.6.1-1',
                asterisk_core_sounds_fr_wav='1.6.1-1',
            ),
            *_debian(
                'CC-BY-3.0',
                asterisk_core_sounds_it_wav='1.6.1-1',
                asterisk_core_sounds_ru_wav='1.6.1-1',
            ),
        ),
        rules=(
            Rule(
                r'asterisk-core-sounds-(..)-wav/.*/((?:digits|letters|phonetic)/[^/]+)\.wav',
                r'\1',
                r'\2',
            ),
        ),
        group='prompt, in all languages',
        clips=965,
        classes=5,
        content='03f98092d8375d1cf3de4fd92fd94f11eb7f86b3e2f912ef1279da3ffc265ad1',
    ),
    Task(
        name='dialogues',
        question='which of two actors speaks, in Czech or in Dutch?',
        packages=_debian(
            'GPL-2.0-only',
            fillets_ng_data_cs='1.0.1-1.1',
            fillets_ng_data_nl='1.0.1-1.1',
        ),
        # Levels with names from a to k, about half of them; two recordings hold no samples.
        rules=(
            Rule(
                r'fillets-ng-data-../.*/sound/([a-k][^/]*)/(?!nl/(?:zd1-m-cesta|zav-v-sto)\.ogg)'
                r'(cs|nl)/[^/-]+-([mv])-[^/]*\.ogg',
                r'\2-\3',
                r'\1',
            ),
        ),
        group='level, in both languages',
        clips=1482,
        classes=4,
        content='dde6fdb89a5b291dea43879788e8c2919f969f3144c63a5a3af886c3f2477fa1',
    ),
    Task(
        name='words',
        question='which of twelve languages has the word?',
        packages=_debian('GPL-2.0-or-later', ktuberling_data='4:22.12.3-1'),
        rules=(
            Rule(
                r'ktuberling-data/.*/sounds/(ca|da|de|el|en|fr|gl|lt|ru|sl|uk|wa)/[^/]+\.(?:ogg|wav)',
                r'\1',
            ),
        ),
        group='none: one or two speakers for each language',
        clips=1507,
        classes=12,
        content='9b1ba5f95c81f4ddcd21e01d2fe23447e97662c35620e0f0d32ad1904c7a6c8c',
    ),
)
TASKS: Mapping[str, Task] = types.MappingProxyType({task.name: task for task in _LIST})

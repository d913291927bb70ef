"""Words of appearance in the languages of the locales, and how a caption's language is told: small lists, no grammar.

A word stands as a regular expression of all its forms. Chinese and Japanese have no spaces between words, so there a
word is found anywhere, with the particle that ties it to a noun.
"""

from __future__ import annotations

COLOUR, LIGHT, TEXTURE = "colour", "light", "texture"

# Language: the small words by which it is told from the others written with the same letters.
SMALL_WORDS = {
    "en": "a an the of in on with and at by is from",
    "fr": "un une le la les des du de et avec sur dans au est",
    "de": "ein eine einen einem einer der die das dem den mit und auf im von am ist",
    "es": "un una unos unas el la los las y con sobre en de del es",
}
# Between two words of appearance that belong together.
JOINTS = {"en": "and", "fr": "et", "de": "und", "es": "y|e", "zh": "和|与", "ja": "と"}
UNSPACED = {"zh": "的?", "ja": "[のな]?"}  # what follows a word there
_DE = "(?:e|er|es|en|em)"

APPEARANCE = {
    "en": {
        COLOUR: r"red(?:dish)? orange yellow(?:ish)? green(?:ish)? blue bluish purple violet pink brown black white "
        r"gr[ae]y golden silver beige turquoise teal magenta cyan crimson maroon colou?rful (?:multi)?colou?red pastel",
        LIGHT: r"bright dark dim sunny sunlit backlit moonlit shadowy glowing shaded",
        TEXTURE: r"shiny glossy matte rough smooth fluffy furry wooden metallic striped spotted dotted patterned rusty "
        r"wet dusty grainy textured che(?:ck|qu)ered marbled woolly velvety",
    },
    "fr": {
        COLOUR: r"rouges? orange jaunes? verte?s? bleue?s? violet(?:te)?s? mauves? roses? brune?s? marron noire?s? "
        r"blanc(?:he)?s? grise?s? dorée?s? argentée?s? beiges? turquoises? colorée?s? multicolores?",
        LIGHT: r"claire?s? sombres? foncée?s? lumineu(?:x|ses?) ensoleillée?s? ombragée?s?",
        TEXTURE: r"brillante?s? mate?s? lisses? rugueu(?:x|ses?) duveteu(?:x|ses?) poilue?s? rayée?s? tachetée?s? "
        r"métalliques? rouillée?s? mouillée?s?",
    },
    "de": {
        COLOUR: rf"rot{_DE}? orange gelb{_DE}? grün{_DE}? blau{_DE}? lila violett{_DE}? rosa pink{_DE}? braun{_DE}? "
        rf"schwarz{_DE}? wei(?:ß|ss){_DE}? grau{_DE}? golden{_DE}? silbern{_DE}? beige türkis{_DE}? bunt{_DE}? "
        rf"farbig{_DE}?",
        LIGHT: rf"hell{_DE}? dunkel dunkl{_DE} sonnig{_DE}? schattig{_DE}? leuchtend{_DE}?",
        TEXTURE: rf"glänzend{_DE}? matt{_DE}? glatt{_DE}? rauh?{_DE}? flauschig{_DE}? pelzig{_DE}? hölzern{_DE}? "
        rf"metallisch{_DE}? gestreift{_DE}? gepunktet{_DE}? gemustert{_DE}? rostig{_DE}? nass{_DE}?",
    },
    "es": {
        COLOUR: r"roj[oa]s? naranjas? amarill[oa]s? verdes? azul(?:es)? morad[oa]s? violetas? rosas? marr[oó]n(?:es)? "
        r"negr[oa]s? blanc[oa]s? gris(?:es)? dorad[oa]s? platead[oa]s? beis beige turquesas? colorid[oa]s? multicolor",
        LIGHT: r"clar[oa]s? oscur[oa]s? luminos[oa]s? solead[oa]s? sombrí[oa]s?",
        TEXTURE: r"brillantes? mates? lis[oa]s? rugos[oa]s? peludi?t?[oa]s? esponjos[oa]s? rayad[oa]s? estampad[oa]s? "
        r"metálic[oa]s? oxidad[oa]s? mojad[oa]s?",
    },
    "zh": {
        COLOUR: r"粉红色 红色 橙色 黄色 绿色 蓝色 紫色 粉色 棕色 褐色 黑色 白色 灰色 金色 银色 米色 彩色 五颜六色",
        LIGHT: r"明亮 昏暗 发光 阳光明媚 背光",
        TEXTURE: r"光滑 粗糙 闪亮 哑光 毛茸茸 条纹 斑点 金属质感 木质 生锈",
    },
    "ja": {
        COLOUR: r"[赤青白黒]い [黄茶]色い [赤青白黒黄緑紫茶桃灰金銀橙水]色 緑の 紫の ピンク(?:色)? オレンジ色 "
        r"カラフル 色とりどり",
        LIGHT: r"明るい 暗い 光る まぶしい 逆光",
        TEXTURE: r"滑らか ざらざらした つやつやした 光沢のある ふわふわ(?:した)? もふもふ 縞模様 水玉 金属製 "
        r"木製 錆びた 濡れた",
    },
}

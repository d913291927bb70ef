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
    "de": "ein eine einen einem einer der die das dem den mit und auf in im von am ist sind vor aus",
    "es": "un una unos unas el la los las y con sobre en de del es",
}
# Between two words of appearance that belong together.
JOINTS = {"en": "and", "fr": "et", "de": "und", "es": "y|e", "zh": "和|与", "ja": "[とにで]"}
# Before words of appearance with which a clause ends, and without meaning once they are gone.
COPULAS = {
    "en": "is|are|was|were", "fr": "est|sont", "de": "ist|sind", "es": "es|son|está|están", "zh": "是", "ja": "[はが]",
}  # fmt: skip
UNSPACED = {"zh": "的?", "ja": "[のな]?"}  # what follows a word there
_DE = "(?:e|er|es|en|em)"
# What makes another colour of one: light blue, hellblau, 深蓝色.
_SHADE = r"(?:(?:light|pale|deep|dark|bright|vivid|sky|royal|baby|lime|olive|navy|emerald)[\s-])*"
_DE_SHADE = (
    r"(?:(?:hell|dunkel|mittel|blass|zart|knall|tief|leuchtend|feuer|blut|wein|rost|kirsch|himmel|marine|stahl|gras|"
    r"oliv|moos|schnee|pech|raben|zitronen|gold|silber|rot|gelb|grün|blau|grau|schwarz|weiß|braun)-?)*"
)
_ZH_SHADE = "[深浅淡暗鲜亮天湖海酒玫橘米墨]"
_ZH_DRESSED = "裙|衣|毛|猫|狗|车|帽|鞋|花|马|鸟|眼|衬衫|T恤|背景|墙|伞|旗"  # after a colour of one sign

APPEARANCE = {
    "en": {
        COLOUR: rf"{_SHADE}(?:red(?:dish)?|orange|yellow(?:ish)?|green(?:ish)?|blue|bluish|purple|violet|pink|brown|"
        r"black|white|pinkish|gr[ae]y|golden?|silver|beige|turquoise|teal|magenta|cyan|crimson|maroon|scarlet|indigo|"
        r"khaki) navy blonde? monochrome colou?rful (?:multi)?colou?red pastel",
        LIGHT: r"bright dark dim sunny sunlit backlit moonlit shadowy glowing shaded",
        TEXTURE: r"shiny glossy matte rough smooth fluffy furry wooden metallic striped spotted dotted patterned rusty "
        r"wet dusty grainy textured che(?:ck|qu)ered marbled woolly velvety",
    },
    "fr": {
        COLOUR: r"en\snoir\set\sblanc rouges? orange jaunes? verte?s? bleue?s?(?:\s(?:marine|ciel|nuit|roi))? "
        r"violet(?:te)?s? mauves? roses? brune?s? marron noire?s? blanc(?:he)?s? grise?s? "
        r"rou(?:x|sses?) blonde?s? dorée?s? argentée?s? beiges? turquoises? pourpres? colorée?s? "
        r"multicolores? monochromes?",
        LIGHT: r"claire?s? sombres? foncée?s? vifs? pâles? lumineu(?:x|ses?) ensoleillée?s? ombragée?s?",
        TEXTURE: r"brillante?s? mate?s? lisses? rugueu(?:x|ses?) duveteu(?:x|ses?) poilue?s? rayée?s? tachetée?s? "
        r"métalliques? rouillée?s? mouillée?s? en\sbois",
    },
    "de": {
        COLOUR: rf"{_DE_SHADE}(?:rot|gelb|grün|blau|violett|pink|braun|schwarz|wei(?:ß|ss)|grau|türkis){_DE}? "
        rf"{_DE_SHADE}(?:rosa|lila|orange){_DE}? (?:bläu|röt|grün|gelb|bräun)lich{_DE}? golden{_DE}? silbern{_DE}? "
        rf"beige{_DE}? blond{_DE}? bunt{_DE}? \w*farb(?:ig{_DE}?|en{_DE}?)",
        LIGHT: rf"hell{_DE}? dunkel dunkl{_DE} blass{_DE}? sonnig{_DE}? schattig{_DE}? leuchtend{_DE}?",
        TEXTURE: rf"glänzend{_DE}? matt{_DE}? glatt{_DE}? rauh?{_DE}? flauschig{_DE}? pelzig{_DE}? hölzern{_DE}? "
        rf"metallisch{_DE}? gestreift{_DE}? gepunktet{_DE}? gemustert{_DE}? rostig{_DE}? nass{_DE}?",
    },
    "es": {
        COLOUR: r"en\sblanco\sy\snegro (?:de\scolor\s)?(?:rosa|naranja|violeta) rosas naranjas violetas roj[oa]s? "
        r"amarill[oa]s? verdes? azul(?:es)?(?:\smarino)? morad[oa]s? marr[oó]n(?:es)? negr[oa]s? blanc[oa]s? "
        r"gris(?:es)? rubi[oa]s? pelirroj[oa]s? castaño dorad[oa]s? platead[oa]s? beis beige turquesas? granates? "
        r"celestes? colorid[oa]s? multicolor",
        LIGHT: r"clar[oa]s? oscur[oa]s? pálid[oa]s? luminos[oa]s? solead[oa]s? sombrí[oa]s?",
        TEXTURE: r"brillantes? mates? lis[oa]s? rugos[oa]s? peludi?t?[oa]s? esponjos[oa]s? rayad[oa]s? estampad[oa]s? "
        r"metálic[oa]s? oxidad[oa]s? mojad[oa]s? de\smadera",
    },
    "zh": {
        COLOUR: rf"{_ZH_SHADE}*粉?[红橙橘黄绿蓝青紫粉棕褐黑白灰金银米彩肉]色 咖啡色 五颜六色 黑白 "
        rf"{_ZH_SHADE}[红黄绿蓝紫粉棕灰] [红黄蓝绿紫黑白灰粉金银棕橘](?={_ZH_DRESSED}) "
        r"[红黑白灰金银棕]发",
        LIGHT: r"明亮 昏暗 发光 阳光明媚 背光",
        TEXTURE: r"光滑 粗糙 闪亮 哑光 毛茸茸 条纹 斑点 金属质感 木质 生锈",
    },
    "ja": {
        COLOUR: r"真っ?[赤青白黒]な? [赤青白黒](?:い|くて?|かった|っぽい) [黄茶]色(?:い|くて?) "
        r"[濃淡薄]?[赤青白黒黄緑紫茶桃灰金銀橙水紺肌]色 [赤青白黒緑紫紺](?=と[赤青白黒緑紫黄茶金銀紺]|の) 濃紺 白黒 "
        r"[黒白茶](?=猫|犬|馬) [赤黒白茶金銀]髪 ピンク(?:色)? オレンジ色 グレー ベージュ モノクロ カラフル 色とりどり",
        LIGHT: r"真っ暗な? 明る(?:い|くて?) 薄?暗(?:い|くて?) 光る まぶしい 眩しい 逆光",
        TEXTURE: r"滑らか ざらざらした つやつやした 光沢のある ふわふわ(?:した)? もふもふ 縞模様 水玉 金属製 "
        r"木製 錆びた 濡れた",
    },
}

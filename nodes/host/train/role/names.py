"""Words of appearance within names of things, by language: a golden retriever is not golden, an orange is a fruit.

A name stands as a regular expression; a plural in s is one of its forms. So small a list knows the most common ones. In
languages with capital letters, a capitalised word within a sentence is a name by itself: the White House.
"""

from __future__ import annotations

_END = r"(?=\s*(?:$|[.;:!?])|,\s*(?:an?|the|some|and)\b|\s+(?:on|in|at|of|by|from|with|is|next|under|near|beside)\b)"

NAMES = {
    "en": rf"(?:an|the|one|this|that|each|half)\sorange{_END}|orange\s(?:juice|peel|tree|slice|blossom|marmalade)|"
    r"golden\s(?:retriever|eagle|gate)|silver\s(?:fox|birch|spoon)|(?:red|grey|gray|arctic)\s(?:fox|wolf)|"
    r"(?:black|brown)\sbear|red\s(?:panda|deer|kite|squirrel|wine|carpet|cabbage|onion)|blue\s(?:whale|jay|cheese)|"
    r"white\s(?:shark|rhino|wine|chocolate|noise)|black\s(?:hole|widow|panther|pepper|tea|coffee)|"
    r"green\s(?:tea|bean|onion|screen)|brown\s(?:rice|sugar)|pink\spanther|dark\schocolate|rough\scollie|"
    r"(?:spotted|striped|brown)\shyena|colou?red\spencil|wet\ssuit|bright\sside",
    "fr": r"(?:une|la|les|des|de|cette|ces|aux|deux|trois)\s(?:rose|violette|orange)|(?:un|le|les|des|de)\smarrons?|"
    r"[dl]['’](?:une\s)?orange|(?:ours|vins?)\s(?:brun|blanc|noir|rouge)|loups?\sgris|poissons?\srouge|"
    r"tableaux?\snoir|feux?\srouge|cartes?\sbleue|thés?\s(?:vert|noir)|haricots?\svert|choux?\srouge|chocolats?\snoir",
    "de": r"golden\sretriever",
    "es": r"(?:una|la|las|unas|de|dos|tres)\s(?:rosa|violeta|naranja)|vinos?\s(?:blanco|rosado)|osos?\s(?:negro|pardo)|"
    r"tés?\s(?:verde|negro)|chocolates?\snegro|(?:un|el)\sclaro|(?:un|el|de|bebe|bebiendo)\smate",
    "zh": "白宫|金毛|红绿灯|黄花鱼",
    "ja": "面白[いくか]|赤の他人|ピンクパンサー",
}

/** A row of a merge, which is muted by a button of its own. */

import { Row as DeskRow } from "../desk/row.js";
import { button } from "../lib/dom.js";
import { text } from "../lib/texts.js";

export class Row extends DeskRow {
  /** @param {ConstructorParameters<typeof DeskRow>} given */
  constructor(...given) {
    super(...given);
    this.mute = button("M", text("merge.mute"), () => this.do(() => this.mix.toggleMuted(this.slot)));
    this.solo.before(this.mute);
  }

  /** @override */
  controls() {
    return [...super.controls(), this.mute];
  }

  /** @override */
  show() {
    super.show();
    this.mute.setAttribute("aria-pressed", String(this.mix.isMuted(this.slot)));
  }
}

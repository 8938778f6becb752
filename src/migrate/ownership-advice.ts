// What an operator hears when nobody but an operator can know whose the guest is: the ways out of
// `unknown`, on either side of our own ends. Sentences only; the table is in ownership.ts.
//
// The rule in all of them: first see to it that the guest can never run on the one side, then let
// it run on the other. Whether it runs there now is not enough: it may be about to.

import { MultifdError } from '../kit/errors.ts'

/** At the source: the guest was given up, and the destination's last word did not come. */
export function handOverUnconfirmed(cause: MultifdError): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_STATE',
    'the guest was handed over, but the destination did not confirm it, so it stands still here ' +
      `(${cause.message}): look whether it runs there. If it does: decide('destination') here. If ` +
      "it does not, see to it that it never will (decide('source') there, or end that program), and " +
      "only then resume it here by hand, never both: decide('source') here",
    { cause },
  )
}

/** At the destination: all is loaded, and the source did not say whose the guest is. */
export function commitMissing(cause: MultifdError): MultifdError {
  return new MultifdError(
    cause.code,
    'the guest was loaded, but the source did not hand it over, so it does not start here ' +
      `(${cause.message}): look whether it runs at the source. If it does, or is to: ` +
      "decide('source') here. If it does not, see to it that it never will " +
      "(decide('destination') there, in its status unknown, or end that program), and only then " +
      "decide('destination') here, which lets it run here",
    { cause },
  )
}

/* How much the flows of a core may hold, together and each. */
#ifndef ZKS_FLOW_BUDGET_H
#define ZKS_FLOW_BUDGET_H
#include "context.h"

#define BUDGET_FIRST_WINDOW 65520u /* the most that a SYN can say (RFC 7323 §2.2), less what the scale cuts off */

/* Brings the charge of a flow up to date. */
void budget_charge(zks_core *core, struct flow *flow);
/* How many bytes lwIP may take from us now. */
uint32_t budget_send_room(const zks_core *core, const struct tcp_pcb *pcb);
/* Whether there is so much room again that it is worth a wake-up. */
int budget_has_room(const zks_core *core, const struct tcp_pcb *pcb);
/* The window that a SYN's answer may speak of. */
uint16_t budget_first_window(const zks_core *core);
/* Makes the window what the SYN's answer, which is on its way, speaks of. */
void budget_set_window(struct tcp_pcb *pcb, uint16_t window);
/* taken bytes have left the receive queue: opens the window by as much, more or less, and tells the peer if that is
 * worth it. */
void budget_open_window(zks_core *core, struct flow *flow, uint32_t taken);

#endif

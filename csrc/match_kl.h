// match_kl: loss = mean_i KL(P[i] || softmax_j (T + b)[i]) with T of maxsim.h, and its gradients
//
//   q, d, a           as in maxsim.h
//   v       [N, D]    in match_kl_scaled, where q[j, r] = v[j] f[j, r] is formed tile by tile
//   b       [N]       bias of the scored images
//   P       [B, N]    target similarities, finite, not negative
//   exclude [B]       int64, the column that leaves row i's softmax and loss, -1 for none
//   loss    []
//
// The softmax runs over j for each i, so that a block of conditioning images is complete in itself:
// scores, softmax, loss and gradients follow one another block by block, and the matches live for
// one block. With G[i, j] = dloss/dT[i, j] = (Q[i, j] sum_j P[i, j] - P[i, j]) / B the gradients
// are those of maxsim.h, db = sum_i G and dv[j] = sum_r f[j, r] a[j, r] u[j, r].
//
// Gradients come with the loss, those that are asked for and no others; a second derivative is an
// error. A row whose columns are all excluded adds nothing. Sums over images run in groups of eight
// in ascending order, so that the bits do not depend on the block or on the number of threads.
// Memory beside inputs and results: scratch of each thread and a block of
// N (R bytes of matches + scores) per conditioning image.
